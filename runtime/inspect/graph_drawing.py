"""A graph as SVG, laid out by `layered_layout.py`, or as DOT for Graphviz.

In: a `Graph`. Out: text. The SVG needs no other file; tooltips say nodes and edges in full.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path as FilePath
from xml.sax.saxutils import escape, quoteattr

from ...dsl.regular_files import open_regular
from .graph import Box, Edge, Graph, Node
from .layered_layout import Item, Layered, Link, Point, lay_out, port_name
from .structure import Path

START = 4096  # bytes of a drawing that begin with its title

CHARACTER, SMALL = 7.2, 6.0  # the width of a letter of a title, and of a note or a size
LINE, BORDER = 16.0, 12.0  # the height of a line of text; around the text of a node
LEAST_WIDTH = 64.0
MARGIN = 8.0

DRAWN = "<!-- drawn by nnc graph -->"
_STYLE = """
text { font: 12px system-ui, sans-serif; fill: #1b1f24; text-anchor: middle; }
.note, .size { font-size: 10px; fill: #57606a; }
.size { text-anchor: start; }
.size.left { text-anchor: end; }
.title { text-anchor: start; font-weight: 600; }
rect { stroke-width: 1; }
.input rect, .output rect { fill: #ddf4ff; stroke: #54aeff; }
.layer rect { fill: #fff8c5; stroke: #d4a72c; }
.equation rect { fill: #f6f8fa; stroke: #afb8c1; }
.parameter rect { fill: #dafbe1; stroke: #4ac26b; }
.box > rect { fill: #8c959f; fill-opacity: .08; stroke: #8c959f; stroke-dasharray: 4 3; }
.edge path { fill: none; stroke: #6e7781; stroke-width: 1.2; }
.back path { stroke-dasharray: 5 4; }
"""


# --- SVG ------------------------------------------------------------------------------------------


def svg(graph: Graph) -> str:
    """The drawing, from top to bottom."""
    level = _level(graph, ())
    lay_out(level)
    drawing = _Drawing(graph)
    drawing.draw(level, MARGIN, MARGIN)
    width, height = level.width + 2 * MARGIN, level.height + 2 * MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.1f} {height:.1f}" role="img" aria-label={quoteattr(graph.name)}>',
        f"<title>{escape(graph.name)}</title>",
        DRAWN,
        f"<style>{_STYLE}</style>",
        '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0 L8 4 L0 8 z" fill="#6e7781"/></marker>'
        "</defs>",
        f'<rect width="{width:.0f}" height="{height:.0f}" fill="#fff"/>',
        *drawing.boxes,
        *drawing.edges,
        *drawing.nodes,
        *drawing.sizes,
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def is_drawn(path: FilePath) -> bool:
    """Whether a file is such a drawing."""
    try:
        with open_regular(path) as file:
            return DRAWN.encode() in file.read(START)
    except OSError:
        return False


def _level(graph: Graph, path: Path) -> Layered:
    """What is directly within a box, with the parts of edges that lie in it."""
    items = {n.name: Item(n.name, *_extent(n)) for n in graph.nodes if n.path == path}
    for box in graph.boxes:
        if box.path[:-1] == path:
            items[_box_name(box.path)] = Item(_box_name(box.path), inside=_level(graph, box.path))
    paths = {node.name: node.path for node in graph.nodes}
    found = Layered(_in_order(graph, items, path), [])
    known = set()
    for edge in graph.edges:
        key = f"{edge.source}/{edge.tensor}"
        source = _item(paths[edge.source], path, edge.source) or port_name("in", key)
        target = _item(paths[edge.target], path, edge.target) or port_name("out", key)
        ports = [end for end in (source, target) if end not in items]
        # Outside of this box altogether, or inside a box of this level.
        if len(ports) == 2 or source == target or (source, target, key) in known:
            continue
        known.add((source, target, key))
        for end in ports:
            found.ports[end] = end.partition(":")[0]
            found.items.setdefault(end, Item(end))
        found.links.append(Link(source, target, key))
    return found


def _in_order(graph: Graph, items: dict[str, Item], path: Path) -> dict[str, Item]:
    """The items in the order of the program, boxes at the place of their first node."""
    order = dict.fromkeys(
        name for node in graph.nodes if (name := _item(node.path, path, node.name)) in items
    )
    return {name: items[name] for name in order}


def _item(inner: Path, path: Path, name: str) -> str:
    """The item of a level that a node is in; "" if it lies outside of the level's box."""
    if inner[: len(path)] != path:
        return ""
    return name if len(inner) == len(path) else _box_name(inner[: len(path) + 1])


def _box_name(path: Path) -> str:
    return "box " + "/".join(path)


def _extent(node: Node) -> tuple[float, float]:
    text = max(len(node.title) * CHARACTER, len(node.note) * SMALL)
    return max(LEAST_WIDTH, text + 2 * BORDER), LINE * (2 if node.note else 1) + BORDER


class _Drawing:
    """The parts of the picture, in the order in which they lie upon each other."""

    def __init__(self, graph: Graph):
        self.nodes_by_name = {node.name: node for node in graph.nodes}
        self.boxes_by_name = {_box_name(box.path): box for box in graph.boxes}
        self.edges_by_key: dict[str, Edge] = {}
        for edge in graph.edges:
            self.edges_by_key.setdefault(f"{edge.source}/{edge.tensor}", edge)
        self.loops = {edge.source for edge in graph.edges if edge.source == edge.target}
        self.boxes: list[str] = []
        self.edges: list[str] = []
        self.nodes: list[str] = []
        self.sizes: list[str] = []

    def draw(self, level: Layered, left: float, top: float) -> None:
        for name, (x, y) in level.places.items():
            item = level.items[name]
            if name in self.boxes_by_name and item.inside is not None:
                self._box(self.boxes_by_name[name], item, left + x, top + y)
                self.draw(item.inside, left + x, top + y)
            elif name in self.nodes_by_name:
                self._node(self.nodes_by_name[name], item, left + x, top + y)
        labelled: set[str] = set()
        for link, points in level.routes:
            moved = [(left + x, top + y) for x, y in points]
            self._edge(link, moved, link.target in self.nodes_by_name)
            between = not {link.source, link.target} & level.ports.keys()
            # One size for all links of a tensor that begin at one place.
            if between and link.key not in labelled:
                labelled.add(link.key)
                self._size(link, moved)

    def _box(self, box: Box, item: Item, x: float, y: float) -> None:
        title = box.title + (f" · {box.note}" if box.note else "")
        self.boxes.append(
            f'<g class="box" data-name={quoteattr(box.path[-1])}>'
            f"<title>{escape(title)}</title>{_rect(x, y, item.width, item.height)}"
            f'<text class="title" x="{x + 8:.1f}" y="{y + 15:.1f}">{escape(box.title)}</text></g>'
        )

    def _node(self, node: Node, item: Item, x: float, y: float) -> None:
        middle, text = x + item.width / 2, y + BORDER / 2 + 12
        note = (
            f'<text class="note" x="{middle:.1f}" y="{text + LINE:.1f}">{escape(node.note)}</text>'
            if node.note
            else ""
        )
        self.nodes.append(
            f'<g class="node {node.kind}" data-name={quoteattr(node.name)}>'
            f"<title>{escape(node.tooltip or node.title)}</title>"
            f"{_rect(x, y, item.width, item.height)}"
            f'<text x="{middle:.1f}" y="{text:.1f}">{escape(node.title)}</text>{note}</g>'
        )
        if node.name in self.loops:
            self._loop(x + item.width, y + item.height / 2)

    def _loop(self, x: float, y: float) -> None:
        """A tensor that is computed from its own earlier elements."""
        curve = f"M{x:.1f} {y - 5:.1f} c16 -14 16 24 0 10"
        self.edges.append(f'<g class="edge back"><path d="{curve}" marker-end="url(#arrow)"/></g>')

    def _edge(self, link: Link, points: Sequence[Point], arrow: bool) -> None:
        edge = self.edges_by_key[link.key]
        end = ' marker-end="url(#arrow)"' if arrow else ""
        kind = "edge back" if link.back else "edge"
        self.edges.append(
            f'<g class="{kind}"><title>{escape(f"{edge.tensor}: {edge.type}")}</title>'
            f'<path d="{spline(points)}"{end}/></g>'
        )

    def _size(self, link: Link, points: Sequence[Point]) -> None:
        edge = self.edges_by_key[link.key]
        (x, y), (to_x, _) = points[:2]
        # On the other side than the one to which the line bends.
        kind, at = ("size left", x - 5) if to_x > x + 1 else ("size", x + 5)
        if edge.size:
            self.sizes.append(
                f'<text class="{kind}" x="{at:.1f}" y="{y + 13:.1f}">{escape(edge.size)}</text>'
            )


def _rect(x: float, y: float, width: float, height: float) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="5"/>'


def spline(points: Sequence[Point]) -> str:
    """A path through the points that is vertical in each of them."""
    (x, y), *rest = points
    parts = [f"M{x:.1f} {y:.1f}"]
    for to_x, to_y in rest:
        half = (y + to_y) / 2
        straight = abs(x - to_x) < 0.5
        parts.append(
            f"L{to_x:.1f} {to_y:.1f}"
            if straight
            else f"C{x:.1f} {half:.1f} {to_x:.1f} {half:.1f} {to_x:.1f} {to_y:.1f}"
        )
        x, y = to_x, to_y
    return " ".join(parts)


# --- DOT ------------------------------------------------------------------------------------------


def dot(graph: Graph) -> str:
    """The same graph in the language of Graphviz: boxes are clusters."""
    shapes = {"input": "oval", "output": "oval", "parameter": "note"}
    lines = [f"digraph {_quoted(graph.name)} {{", '    node [shape=box, fontname="sans-serif"]']

    def inside(path: Path) -> None:
        margin = "    " * (len(path) + 1)
        for node in graph.nodes:
            if node.path == path:
                label = "\n".join(text for text in (node.title, node.note) if text)
                shape = f", shape={shapes[node.kind]}" if node.kind in shapes else ""
                lines.append(f"{margin}{_quoted(node.name)} [label={_quoted(label)}{shape}]")
        for box in graph.boxes:
            if box.path[:-1] == path:
                lines.append(f"{margin}subgraph {_quoted('cluster_' + '/'.join(box.path))} {{")
                lines.append(f"{margin}    label={_quoted(box.title)}")
                inside(box.path)
                lines.append(f"{margin}}}")

    inside(())
    for edge in graph.edges:
        lines.append(
            f"    {_quoted(edge.source)} -> {_quoted(edge.target)} [label={_quoted(edge.size)}]"
        )
    return "\n".join([*lines, "}"]) + "\n"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
