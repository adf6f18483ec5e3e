"""`nnc graph`: pictures of layers and equations, and their layout."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from xml.dom import minidom

import numpy as np
import pytest
from pseudo_terminal import at_terminal, plain
from small_programs import DIGITS, write

from nnc.runtime import cli
from nnc.runtime.data import Search
from nnc.runtime.inspect.graph import Graph, equation_graph, layer_graph
from nnc.runtime.inspect.graph_drawing import _level, dot, svg
from nnc.runtime.inspect.layered_layout import Item, Layered, Link, isotonic, lay_out
from nnc.runtime.inspect.structure import structure
from nnc.runtime.project import open_project, planned_setup, project_of_text

EXAMPLES = Path(__file__).parents[2] / "examples"
NESTED = """
layer Cell(x: [B, T, n]) -> y: [B, T, n] {
    z = x |> RNN(4) |> Dense(n)
    h[b, t, j] = tanh(x[b, t, j] + (h[b, t - 1, j] else 0))
    y = softmax(Dense(n)(h) + z)
}
model Rec(x: f32[2, 4, 3], _unread: i32[2]) -> y: f32[2, 5], z: f32[2, 4, 3] {
    enc = Dense(5)
    a = enc(x)
    z = x |> relu |> Cell
    b = enc(z)
    y[i, j] = sum(t) (a[i, t, j] + b[i, t, j])
}
"""


@pytest.fixture(scope="module")
def nested() -> Graph:
    project = project_of_text(NESTED)
    return layer_graph(project, structure(project))


def edges(graph: Graph) -> set[tuple[str, str, str]]:
    return {(e.source, e.target, e.size) for e in graph.edges}


# --- what is drawn --------------------------------------------------------------------------------


def test_layers_and_sizes_of_an_example() -> None:
    project = open_project(EXAMPLES / "cnn_digits.nn")
    setup = planned_setup(project, Search(None, EXAMPLES, offline=True))
    graph = layer_graph(project, structure(project, setup))
    assert [node.title for node in graph.nodes] == [
        "image", 'Conv(16, 3, pad = "same")', "relu", 'Conv(32, 3, pad = "same")', "relu",
        "MaxPool(2)", "Flatten", "Dense(64)", "relu", "Dense(10)", "logits",
    ]  # fmt: skip
    assert [edge.size for edge in graph.edges] == [
        "32×8×8×1", "32×8×8×16", "32×8×8×16", "32×8×8×32", "32×8×8×32", "32×4×4×32",
        "32×512", "32×64", "32×64", "32×10",
    ]  # fmt: skip
    assert next(n.note for n in graph.nodes if n.title == "Dense(64)") == "32,832 parameters"


def test_layers_within_layers_are_boxes(nested: Graph) -> None:
    assert [(box.path, box.title) for box in nested.boxes] == [(("cell1",), "Cell")]
    inside = {node.title for node in nested.nodes if node.path == ("cell1",)}
    assert {"RNN(4)", "Dense(3)", "h", "softmax"} <= inside
    # What is only another name, and what is a part of another equation, has no node.
    assert not {"a", "b", "z", "y_sum", "e_max"} & {n.title for n in nested.nodes if n.path}
    assert ("enc", "y", "2×4×5") in edges(nested) and ("enc_2", "y", "2×4×5") in edges(nested)
    assert {n.name for n in nested.nodes if n.kind == "input"} == {"x", "_unread"}
    assert [n.title for n in nested.nodes if n.kind == "output"] == ["y", "z"]


def test_depth_closes_boxes() -> None:
    project = project_of_text(NESTED)
    graph = layer_graph(project, structure(project), depth=0)
    assert not graph.boxes and ("relu", "cell1", "2×4×3") in edges(graph)
    assert next(n for n in graph.nodes if n.name == "cell1").note == "59 parameters"


def test_equations_are_those_of_the_system(nested: Graph) -> None:
    project = project_of_text(NESTED)
    found = structure(project)
    graph = equation_graph(project, found)
    assert {n.name for n in graph.nodes if n.kind == "equation"} == {
        eq.target for eq in found.system.equations
    }
    assert {n.name for n in graph.nodes if n.kind == "parameter"} == {
        t.name for t in found.system.of_kind("param")
    }
    read = {(s, eq.target) for eq in found.system.equations for s in eq.sources}
    assert {(e.source, e.target) for e in graph.edges if "(result)" not in e.target} == read


# --- the files ------------------------------------------------------------------------------------


def test_svg_is_well_formed_and_complete(nested: Graph) -> None:
    root = minidom.parseString(svg(nested)).documentElement
    assert root.tagName == "svg"
    names = [g.getAttribute("data-name") for g in root.getElementsByTagName("g")]
    assert sorted(n for n in names if n) == sorted(
        [*(n.name for n in nested.nodes), *(b.path[-1] for b in nested.boxes)]
    )
    titles = {t.firstChild.data for t in root.getElementsByTagName("title")}
    assert {"enc_y: f32[2, 4, 5]", "x: f32[2, 4, 3]"} <= titles
    assert {"2×4×5", "2×5"} <= {t.firstChild.data for t in root.getElementsByTagName("text")}


def test_names_are_escaped() -> None:
    text = "layer A(k)(x: [B]) -> y: [B] { y[b] = if x[b] < 1 then x[b] else 2 * k }\n"
    project = project_of_text(text + "model M(x: f32[2]) -> y: f32[2] { y = x |> A(3) }\n")
    graph = equation_graph(project, structure(project))
    drawn = svg(graph)
    minidom.parseString(drawn)
    assert "&lt; 1" in drawn
    assert dot(layer_graph(project, structure(project))).count("{") == 1


def test_dot_has_clusters_and_every_edge(nested: Graph) -> None:
    text = dot(nested)
    assert text.count("{") == text.count("}") == 2 and 'subgraph "cluster_cell1"' in text
    found = set(re.findall(r'^    "(.*)" -> "(.*)" \[label="(.*)"\]$', text, re.M))
    assert found == edges(nested)


def test_the_picture_of_the_docs_is_what_is_drawn(update_golden: bool) -> None:
    project = open_project(EXAMPLES / "vae_digits.nn")
    setup = planned_setup(project, Search(None, EXAMPLES, offline=True))
    drawn = svg(layer_graph(project, structure(project, setup)))
    golden = EXAMPLES.parent / "docs" / "pictures" / "vae_layers.svg"
    if update_golden:
        golden.write_text(drawn, "utf-8")
    assert golden.read_text("utf-8") == drawn


# --- the layout -----------------------------------------------------------------------------------


def rectangles(level: Layered) -> dict[str, tuple[float, float, float, float]]:
    return {
        name: (x, y, x + level.items[name].width, y + level.items[name].height)
        for name, (x, y) in level.places.items()
        if level.items[name].width
    }


def check(level: Layered) -> None:
    """Nothing overlaps, everything lies in its box, and links go down from end to end."""
    lay = rectangles(level)
    for (a, (l1, t1, r1, b1)), (b, (l2, t2, r2, b2)) in combinations(lay.items(), 2):
        assert r1 <= l2 or r2 <= l1 or b1 <= t2 or b2 <= t1, (a, b)
    for left, top, right, bottom in lay.values():
        assert left >= 0 and top >= 0 and right <= level.width and bottom <= level.height
    for link, points in level.routes:
        ys = [y for _, y in points]
        assert ys == sorted(ys, reverse=link.back), link
        for end, (x, y) in ((link.source, points[0]), (link.target, points[-1])):
            if end in lay:
                left, top, right, bottom = lay[end]
                assert left <= x <= right and y in (top, bottom)
    for item in level.items.values():
        if item.inside is not None:
            check(item.inside)


@pytest.mark.parametrize("name", ["resnet_digits", "vae_digits", "char_gpt", "translate"])
def test_examples_are_laid_out_without_overlaps(name: str) -> None:
    project = open_project(EXAMPLES / f"{name}.nn")
    shapes = {"char_gpt": {"T": 64}, "translate": {"S": 12, "T": 13}}.get(name, {})
    sizes = {**project.settings.sizes, **shapes}
    project = replace(project, settings=replace(project.settings, sizes=sizes))
    level = _level(layer_graph(project, structure(project)), ())
    lay_out(level)
    check(level)


def test_random_graphs_are_laid_out_without_overlaps() -> None:
    generator = np.random.default_rng(0)
    for _ in range(30):
        count = int(generator.integers(1, 14))
        names = [f"n{k}" for k in range(count)]
        items = {n: Item(n, float(generator.integers(20, 120)), 30.0) for n in names}
        links = {
            (names[a], names[b])
            for a, b in generator.integers(0, count, (int(generator.integers(0, 20)), 2))
            if a != b  # cycles are among them
        }
        level = Layered(items, [Link(a, b, f"{a}/t") for a, b in sorted(links)])
        lay_out(level)
        check(level)


def test_a_graph_without_needless_crossings() -> None:
    """Two chains whose second rank comes in the wrong order."""
    items = {n: Item(n, 40.0, 20.0) for n in ("a", "b", "b2", "a2")}
    level = Layered(items, [Link("a", "a2", "1"), Link("b", "b2", "2")])
    lay_out(level)
    x = {name: place[0] for name, place in level.places.items()}
    assert x["a"] == pytest.approx(x["a2"]) and x["b"] == pytest.approx(x["b2"])


def test_isotonic_regression() -> None:
    """By its definition: no other non-decreasing numbers are nearer."""
    generator = np.random.default_rng(1)
    for _ in range(20):
        values, weights = generator.normal(size=6), generator.uniform(0.1, 3, 6)
        found = np.array(isotonic(values.tolist(), weights.tolist()))
        assert (np.diff(found) >= 0).all()
        best = (weights * (found - values) ** 2).sum()
        for _ in range(200):
            other = np.sort(found + generator.normal(scale=0.1, size=6))
            assert (weights * (other - values) ** 2).sum() >= best - 1e-12


# --- the command ----------------------------------------------------------------------------------


def test_the_command(tmp_path, monkeypatch, capfd) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, DIGITS)

    def nnc(*arguments: str) -> tuple[int, str, str]:
        code = cli.run(arguments)
        return code, *capfd.readouterr()

    code, out, err = nnc("graph", "small.nn")  # in a pipe
    assert (code, err) == (0, "") and minidom.parseString(out).documentElement.tagName == "svg"
    assert nnc("graph", "small.nn", "--output", "g.svg") == (0, "", "6 nodes in g.svg\n")
    assert Path("g.svg").read_text("utf-8") == out
    code, out, _ = nnc("graph", "small.nn", "--emit", "dot", "--batch", "7")
    assert code == 0 and out.startswith('digraph "Small"') and 'label="7×12"' in out
    assert nnc("compile", "small.nn", "--emit", "dot", "--batch", "7")[1] == out
    # A run has its own program and the types of its data.
    assert nnc("train", "small.nn", "--epochs", "1", "--out", "run")[0] == 0
    Path("small.nn").unlink()
    code, out, _ = nnc("graph", "run", "--equations", "--output", "e.dot")
    assert code == 0 and "dense1_w" in Path("e.dot").read_text("utf-8")
    code, _, err = nnc("graph", "run", "--output", "x.pdf")
    assert code == 1 and "E0716" in err and "there are .svg, .dot" in err
    code, _, err = nnc("graph", "run", "--output", "x.svg", "--emit", "dot")
    assert code == 2 and "give one of them" in err
    code, _, err = nnc("graph", "nothing")
    assert code == 1 and "nothing" in err


def test_a_terminal_gets_a_file(tmp_path) -> None:
    write(tmp_path, DIGITS)
    assert at_terminal(["graph", "small.nn"], tmp_path) == "6 nodes in small.svg\n"
    picture = tmp_path / "small.svg"
    assert os.listdir(tmp_path) and minidom.parse(str(picture))
    # Its own picture is drawn anew, what others drew stays.
    assert at_terminal(["graph", "small.nn"], tmp_path) == "6 nodes in small.svg\n"
    for other in ('<svg xmlns="http://www.w3.org/2000/svg"/>', ""):
        picture.write_text(other, "utf-8")
        said = plain(at_terminal(["graph", "small.nn"], tmp_path, code=1))
        assert "E0709" in said and "no drawing of nnc" in said and "--output" in said
        assert picture.read_text("utf-8") == other
