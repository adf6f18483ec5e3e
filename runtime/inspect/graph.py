"""A model as a graph: its layers, or its equations, and the tensors that go from one to another.

In: a `Structure`. Out: a `Graph`, which `graph_drawing.py` writes as SVG or DOT. In the graph of
layers a layer without layers in it is one node. What a model computes between its layers is a node
for each equation, but for copies and for helpers of one other equation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ...compiler.elaboration.context import RESERVED_INPUTS
from ...compiler.ir.equation import Equation, System, is_identity
from ...compiler.ir.expr import Read
from ...compiler.ir.printer import equation_text, type_text
from ..project import Project
from .structure import Block, Path, Structure

HIDDEN = RESERVED_INPUTS  # inputs of the compiler's own
LONGEST = 40  # characters of an equation in its node; all of it is in the tooltip
CALL = re.compile(r"([a-z][a-z_0-9]*?)\d+_")  # a function with a body: `softmax1_e`


@dataclass(frozen=True)
class Node:
    """`kind` is input, layer, equation, parameter or output; `path` are the boxes around it."""

    name: str
    kind: str
    title: str
    note: str = ""
    path: Path = ()
    tooltip: str = ""


@dataclass(frozen=True)
class Box:
    """A layer with layers in it; its `path` ends with its own name."""

    path: Path
    title: str
    note: str = ""


@dataclass(frozen=True)
class Edge:
    """A tensor on its way; `size` is `32×8×8×16`, and empty for a single number."""

    source: str
    target: str
    tensor: str
    size: str
    type: str


@dataclass(frozen=True)
class Graph:
    """Nodes and boxes in the order of the program."""

    name: str
    nodes: tuple[Node, ...]
    boxes: tuple[Box, ...]
    edges: tuple[Edge, ...]


def layer_graph(project: Project, found: Structure, depth: int | None = None) -> Graph:
    """The layers of a model, each a node, or a box around the layers in it down to `depth`."""
    functions = {d.name.lower() for d in project.checked.definitions.values() if d.kind == "fn"}
    owners = _Owners(found, functions, depth)
    return _graph(found, {eq.target: owners.node(eq) for eq in found.system.equations}, owners)


def equation_graph(project: Project, found: Structure) -> Graph:
    """Every equation of a model and every parameter, in boxes of the layers that they belong to."""
    owners = _Owners(found, set(), None)
    nodes = {eq.target: _equation_node(eq, found) for eq in found.system.equations}
    for tensor in found.system.tensors.values():
        if tensor.kind in ("param", "state"):
            place, size = found.place(tensor.name), size_text(tensor.shape)
            own, text = _own_name(tensor.name, place), f"{tensor.name}: {type_text(tensor)}"
            nodes[tensor.name] = Node(tensor.name, "parameter", own, size, place, text)
    return _graph(found, nodes, owners, equations=True)


def size_text(shape: tuple[int, ...]) -> str:
    """`32×8×8×16`."""
    return "×".join(map(str, shape))


# --- whose an equation is -------------------------------------------------------------------------


class _Owners:
    """The node of each equation in the graph of layers."""

    def __init__(self, found: Structure, functions: set[str], depth: int | None):
        self.found, self.functions, self.depth = found, functions, depth
        self.blocks = {block.name: block for block in found.walk()}
        self.learnt: dict[str, int] = {}
        for tensor in found.system.of_kind("param"):
            for name in found.place(tensor.name):
                self.learnt[name] = self.learnt.get(name, 0) + tensor.size
        # Helpers of one other equation alone are part of it: `y_sum` of `y`.
        readers: dict[str, set[str]] = {}
        for eq in found.system.equations:
            for source in eq.sources:
                readers.setdefault(source, set()).add(eq.target)
        self.helped = {
            name: reader
            for name, of in readers.items()
            for reader in of
            if len(of) == 1 and name.startswith(f"{reader}_")
        }

    def is_box(self, block: Block, level: int) -> bool:
        return bool(block.blocks) and (self.depth is None or level < self.depth)

    def node(self, eq: Equation) -> Node:
        name = eq.target
        while name in self.helped:
            name = self.helped[name]
        place = self.found.place(name)
        for level, outer in enumerate(place):
            if not self.is_box(self.blocks[outer], level):
                return self._layer(self.blocks[outer], place[:level])
        own = _own_name(name, place)
        call = CALL.match(own)
        if call and call[1] in self.functions:
            whole = name.removesuffix(own) + call[0].removesuffix("_")
            return Node(whole, "equation", call[1], path=place)
        eq = self.found.system.definition[name]
        title = re.sub(r"_\d+$", "", own)  # the second `h` of a `repeat` is `h_2`
        return Node(name, "equation", title, _written(eq, title), place, _text(eq, self))

    def _layer(self, block: Block, path: Path) -> Node:
        count = self.learnt.get(block.name, 0)
        note = f"{count:,} parameters" if count else ""
        return Node(block.name, "layer", block.title, note, path, block.name)


def _text(eq: Equation, owners: _Owners) -> str:
    return equation_text(eq, owners.found.system.tensors[eq.target].shape)


def _equation_node(eq: Equation, found: Structure) -> Node:
    text = equation_text(eq, found.system.tensors[eq.target].shape)
    place = found.place(eq.target)
    right = text.partition(" = ")[2]
    short = right if len(right) <= LONGEST else f"{right[: LONGEST - 1]}…"
    return Node(eq.target, "equation", _own_name(eq.target, place), short, place, text)


def _own_name(name: str, place: Path) -> str:
    """A name within its innermost layer."""
    return name.removeprefix(f"{place[-1]}_") if place else name


def _written(eq: Equation, own: str) -> str:
    """What the program writes after `own =`; of a pipeline the last stage, whose value it is."""
    text = " ".join(eq.span.text.split()) if eq.span else ""
    target, _, value = text.partition(" = ")
    if not value or not target.startswith(own):
        return ""
    stage = value.rpartition("|> ")[2]
    # In `x + (h |> Dropout(p))` the last stage is not what is computed last.
    last = stage if stage.count("(") == stage.count(")") else value
    return last if len(last) <= LONGEST else f"{last[: LONGEST - 1]}…"


# --- the graph ------------------------------------------------------------------------------------


def _graph(
    found: Structure, owner: Mapping[str, Node], owners: _Owners, equations: bool = False
) -> Graph:
    system = found.system
    alias = {} if equations else _copies(system)
    nodes: dict[str, Node] = {}
    edges: dict[tuple[str, str, str], Edge] = {}
    for given in system.of_kind("input"):
        if given.name not in HIDDEN:
            nodes[given.name] = Node(given.name, "input", given.name, type_text(given))

    def source(tensor: str) -> tuple[str, Node] | None:
        while tensor in alias:
            tensor = alias[tensor]
        start = owner.get(tensor) or nodes.get(tensor)
        return (tensor, start) if start else None

    for eq in system.equations:
        if eq.target in alias:
            continue
        node = nodes.setdefault(owner[eq.target].name, owner[eq.target])
        for name in eq.sources:
            origin = source(name)
            # A layer's own values go nowhere; a recurrence reads itself.
            if origin is None or (origin[1].name == node.name and not equations):
                continue
            tensor, start = origin
            nodes.setdefault(start.name, start)
            edges.setdefault(
                (start.name, node.name, tensor),
                Edge(
                    start.name,
                    node.name,
                    tensor,
                    size_text(system.tensors[tensor].shape),
                    _type(system, tensor),
                ),
            )
    for output in system.outputs:
        origin = source(output)
        if origin is None:
            continue
        tensor, start = origin
        name = f"{output} (result)"
        nodes[name] = Node(name, "output", output, _type(system, output))
        size = size_text(system.tensors[tensor].shape)
        edges[start.name, name, tensor] = Edge(
            start.name, name, tensor, size, _type(system, tensor)
        )
    return _with_boxes(system.name, nodes, edges, owners)


def _with_boxes(
    name: str,
    nodes: Mapping[str, Node],
    edges: Mapping[tuple[str, str, str], Edge],
    owners: _Owners,
) -> Graph:
    """The graph with the boxes that have nodes in them."""
    used = {node.path[: n + 1] for node in nodes.values() for n in range(len(node.path))}
    boxes = []
    for path in sorted(used, key=len):
        block = owners.blocks[path[-1]]
        count = owners.learnt.get(block.name, 0)
        boxes.append(Box(path, block.title, f"{count:,} parameters" if count else ""))
    return Graph(name, tuple(nodes.values()), tuple(boxes), tuple(edges.values()))


def _copies(system: System) -> dict[str, str]:
    """What is only another name of a tensor, and of which."""
    return {
        eq.target: eq.body.tensor
        for eq in system.equations
        if isinstance(eq.body, Read) and eq.reduce is None and eq.at is None
        and is_identity(eq.body, eq)
    }  # fmt: skip


def _type(system: System, tensor: str) -> str:
    return type_text(system.tensors[tensor])
