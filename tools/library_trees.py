"""Write library.trees, the syntax trees of the standard library that the package contains.

The same library and grammar give the same bytes. A test fails if the file is outdated.
"""

from __future__ import annotations

from nnc.dsl.check.library import standard_library
from nnc.dsl.files import replacing
from nnc.dsl.syntax.parser import grammar
from nnc.dsl.syntax.stored_trees import PACKAGED, tree_line


def text_of_trees() -> str:
    """The text of the file."""
    library = standard_library()
    lines = []
    for name in library:
        start, end, _ = library.place(name)
        lines.append(tree_line(library.parsed(name), grammar(), start, end))
    return "".join(f"{line}\n" for line in lines)


if __name__ == "__main__":
    with replacing(PACKAGED) as file:
        file.write(text_of_trees().encode())
