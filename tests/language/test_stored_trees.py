"""The stored trees of the library: those of its text, and its text where they are not."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from nnc.dsl.check.library import Library, standard_library
from nnc.dsl.syntax.parser import grammar
from nnc.dsl.syntax.source import Source
from nnc.dsl.syntax.stored_trees import PACKAGED, load_tree, stored_trees, tree_line

TEXT = '''"""Half of it, and of what the file begins with nothing."""
fn half(x: [..., n]) -> y: [..., n] {
    y[..., i] = 0.5*x[..., i]  # not -1e-3
}

optimizer step(lr = 1e-3) {
    state m = 0
    m' = 0.5*m + g
    p' = p - lr*m'
}
'''


def library(text: str, trees: Mapping[str, tuple[str, str]]) -> Library:
    return Library((Source("stdlib/some.nn", text, True),), trees)


def trees_of(text: str) -> dict[str, tuple[str, str]]:
    plain, found = library(text, {}), {}
    for name in plain:
        start, end, _ = plain.place(name)
        line = tree_line(plain.parsed(name), grammar(), start, end).split("\t")
        found[line[0]] = (line[1], line[2])
    return found


def test_the_packaged_trees_are_those_of_the_library() -> None:
    whole, stored, lines = standard_library(), stored_trees(), PACKAGED.read_text("utf-8")
    assert list(stored) == list(whole), "run `python tools/library_trees.py`"
    for name, line in zip(whole, lines.splitlines(), strict=True):
        (start, end, _), parsed = whole.place(name), whole.parsed(name)
        assert tree_line(parsed, grammar(), start, end) == line, (
            f"{name}: run `python tools/library_trees.py`"
        )
        source = parsed.span.source
        assert load_tree(stored[name], grammar(), source, start, end) == parsed


def test_a_tree_follows_its_text_to_another_place() -> None:
    lower = library("# a line above\n\n" + TEXT, trees_of(TEXT))
    for name in ("half", "step"):
        assert lower._stored(name) == lower.parsed(name)
        assert lower[name].name_span.text == name


@pytest.mark.parametrize(
    "damage",
    [
        lambda digest, tree: (digest, tree.replace("0.5", "0.6")),
        lambda digest, tree: (digest, tree[:-1]),
        lambda digest, tree: (digest[:-1], tree),
        lambda digest, tree: (digest, ""),
    ],
)
def test_a_damaged_tree_is_not_used(damage) -> None:
    trees = trees_of(TEXT)
    found = library(TEXT, trees | {"half": damage(*trees["half"])})
    assert found._stored("half") is None
    assert found["half"] == found.parsed("half")
    assert found._stored("step") is not None


def test_what_has_changed_since_is_parsed() -> None:
    found = library(TEXT.replace("0.5*m", "0.25*m"), trees_of(TEXT))
    assert found._stored("step") is None and found._stored("half") is not None
    assert found["step"].span.text.count("0.25") == 1
    # Another grammar may give another tree for the same text.
    start, end, _ = found.place("half")
    source = found["half"].span.source
    assert load_tree(trees_of(TEXT)["half"], "another", source, start, end) is None


def test_without_the_file_everything_is_parsed(tmp_path) -> None:
    assert stored_trees(tmp_path / "missing") == {}
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\t\t")
    assert stored_trees(tmp_path / "bytes") == {}
    (tmp_path / "lines").write_text("half\n\nstep\t1\n")
    assert stored_trees(tmp_path / "lines") == {}
