"""Write grammar.tables: the parser's tables, which are part of the package.

In: grammar.lark and the version of Lark at hand. Out: the file; the same grammar gives the same
bytes. A test fails while it is not that of the grammar.
"""

from __future__ import annotations

from nnc.dsl.syntax.lexer_rules import Lines
from nnc.dsl.syntax.parser import grammar
from nnc.dsl.syntax.parser_tables import PACKAGED, built, keep

if __name__ == "__main__":
    lines = Lines()
    keep(PACKAGED, built(grammar(), lines), grammar(), lines)
