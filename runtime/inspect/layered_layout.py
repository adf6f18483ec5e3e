"""Layered drawing of a directed graph (Sugiyama, Tagawa and Toda 1981), boxes within boxes.

In: `Item`s, of which some contain others, and links between them. Out: positions and routes. The
four steps, for the inside of each box and then for what is around it:

1. links of a cycle are turned round (depth-first search),
2. every item gets a rank, the length of the longest path to it; links over several ranks get a
   point in each,
3. the order in each rank is improved by barycentres (the mean place of the neighbours), down and
   up, and the order with the fewest crossings is kept,
4. places in a rank are the least-squares solution given those of its neighbours: links should be
   vertical, and items keep their distances. This is an isotonic regression, solved by pooling
   adjacent violators (Barlow et al. 1972).

What goes into a box or comes out of it passes a port in its upper or lower border.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

RANK_GAP, ITEM_GAP, POINT_GAP = 44.0, 24.0, 14.0  # between ranks, items and passing links
PORT_GAP = 20.0  # between a border and the first rank
PADDING, HEADING = 16.0, 22.0  # of a box; the height of its title
SWEEPS = 12
STRAIGHT = 8.0  # the weight of links that should be vertical before all (Gansner et al. 1993)

Point = tuple[float, float]


@dataclass
class Item:
    """Something with a size; that of a box follows from what is `inside`."""

    name: str
    width: float = 0.0
    height: float = 0.0
    inside: Layered | None = None


def port_name(side: str, key: str) -> str:
    """The port by which links of a key go `in` or `out`."""
    return f"{side}:{key}"


@dataclass
class Link:
    """From an item to another. Links of one `key` go into and out of a box by one port. A link is
    `back` if it was turned round to be laid out."""

    source: str
    target: str
    key: str
    back: bool = False


@dataclass
class Layered:
    """Items and links of one level, and, once laid out, where they are: the left upper corners of
    items, the points of links, and the places of ports in the borders."""

    items: dict[str, Item]
    links: list[Link]
    ports: dict[str, str] = field(default_factory=dict)  # by `port_name`: "in" or "out"
    places: dict[str, Point] = field(default_factory=dict)
    routes: list[tuple[Link, list[Point]]] = field(default_factory=list)
    width: float = 0.0
    height: float = 0.0


def lay_out(graph: Layered) -> None:
    """Place everything in the graph, innermost boxes first."""
    for item in graph.items.values():
        if item.inside is not None:
            lay_out(item.inside)
            item.width, item.height = item.inside.width, item.inside.height
    _Level(graph).lay_out()


class _Level:
    """The layout of one level; `ranks` hold names of items and of points on long links."""

    def __init__(self, graph: Layered):
        self.graph = graph
        self.items = dict(graph.items)
        self.ranks: list[list[str]] = []
        self.chains: list[list[str]] = []  # per link: what it passes, from source to target
        self.below: dict[str, list[tuple[str, float, float]]] = {}  # neighbours with port offsets
        self.above: dict[str, list[tuple[str, float, float]]] = {}
        self.x: dict[str, float] = {}  # centres

    def lay_out(self) -> None:
        self._break_cycles()
        rank = self._rank()
        self._chain(rank)
        self._order()
        self._place()
        self._finish()

    # --- 1. and 2. --------------------------------------------------------------------------------

    def _break_cycles(self) -> None:
        """Turn round the links that lead back to where a depth-first search came from."""
        following: dict[str, list[Link]] = {name: [] for name in self.items}
        for link in self.graph.links:
            following[link.source].append(link)
        state: dict[str, int] = {}  # 1 on the path, 2 done
        for root in self.items:
            stack = [(root, iter(following[root]))] if root not in state else []
            state.setdefault(root, 1)
            while stack:
                name, rest = stack[-1]
                for link in rest:
                    if state.get(link.target) == 1:
                        link.back = True
                    elif link.target not in state:
                        state[link.target] = 1
                        stack.append((link.target, iter(following[link.target])))
                        break
                else:
                    state[name] = 2
                    stack.pop()

    def _ends(self, link: Link) -> tuple[str, str]:
        """The upper and the lower end."""
        return (link.target, link.source) if link.back else (link.source, link.target)

    def _rank(self) -> dict[str, int]:
        """The longest path to each item. Ports are first and last; what has no predecessor goes as
        far down as it can, near to its readers."""
        links = [self._ends(link) for link in self.graph.links]
        links = [(a, b) for a, b in links if a != b]
        into: dict[str, list[str]] = {name: [] for name in self.items}
        out: dict[str, list[str]] = {name: [] for name in self.items}
        for a, b in links:
            into[b].append(a)
            out[a].append(b)
        waiting = {name: len(into[name]) for name in self.items}
        ready, order = [name for name in self.items if not waiting[name]], []
        while ready:
            name = ready.pop(0)
            order.append(name)
            for after in out[name]:
                waiting[after] -= 1
                if not waiting[after]:
                    ready.append(after)
        ports, first = self.graph.ports, 1 if "in" in self.graph.ports.values() else 0
        rank: dict[str, int] = {}
        for name in order:
            least = 0 if ports.get(name) == "in" else first
            rank[name] = max((rank[a] + 1 for a in into[name]), default=least)
        for name in reversed(order):
            if not into[name] and out[name] and name not in ports:
                rank[name] = min(rank[b] for b in out[name]) - 1
        last = max((r for n, r in rank.items() if ports.get(n) != "out"), default=0) + 1
        return {n: last if ports.get(n) == "out" else r for n, r in rank.items()}

    def _chain(self, rank: Mapping[str, int]) -> None:
        """Fill the ranks, and give links that are longer than one rank a point in each."""
        self.ranks = [[] for _ in range(max(rank.values(), default=0) + 1)]
        for name in self.items:
            self.ranks[rank[name]].append(name)
        starts = self._offsets(upper=True)
        ends = self._offsets(upper=False)
        for number, link in enumerate(self.graph.links):
            upper, lower = self._ends(link)
            chain = [upper]
            for level in range(rank[upper] + 1, rank[lower]):
                point = f"{number}:{level}"
                self.items[point] = Item(point)
                self.ranks[level].append(point)
                chain.append(point)
            chain.append(lower)
            self.chains.append(chain)
            for a, b in pairwise(chain):
                offsets = (
                    starts[number] if a == upper else 0.0,
                    ends[number] if b == lower else 0.0,
                )
                self.below.setdefault(a, []).append((b, *offsets))
                self.above.setdefault(b, []).append((a, offsets[1], offsets[0]))

    def _offsets(self, upper: bool) -> list[float]:
        """Where each link leaves or reaches its item, from the item's centre: a box has ports."""
        found = []
        for link in self.graph.links:
            name = self._ends(link)[0 if upper else 1]
            inside = self.items[name].inside
            port = inside and inside.places.get(port_name("out" if upper else "in", link.key))
            found.append(port[0] - self.items[name].width / 2 if port else 0.0)
        return found

    # --- 3. ---------------------------------------------------------------------------------------

    def _order(self) -> None:
        best, fewest = [list(rank) for rank in self.ranks], self._crossings()
        for sweep in range(SWEEPS):
            down = sweep % 2 == 0
            ranks = self.ranks[1:] if down else self.ranks[-2::-1]
            neighbours = self.above if down else self.below
            for rank in ranks:
                at = self._numbers()
                mean = {}
                for n, name in enumerate(rank):
                    places = [at[other] for other, *_ in neighbours.get(name, ())]
                    # Without neighbours an item stays where it is.
                    mean[name] = sum(places) / len(places) if places else n / max(len(rank), 1)
                rank.sort(key=mean.__getitem__)
            crossings = self._crossings()
            if crossings < fewest:
                best, fewest = [list(rank) for rank in self.ranks], crossings
        self.ranks = best

    def _numbers(self) -> dict[str, float]:
        """The place of each item in its rank, from 0 to 1 so that ranks of any length compare."""
        return {name: (n + 0.5) / len(rank) for rank in self.ranks for n, name in enumerate(rank)}

    def _crossings(self) -> int:
        count = 0
        for upper in self.ranks:
            at = self._numbers()
            pairs = sorted(
                (n, at[other])
                for n, name in enumerate(upper)
                for other, *_ in self.below.get(name, ())
            )
            for k, (_, place) in enumerate(pairs):
                count += sum(place < earlier for _, earlier in pairs[:k])
        return count

    # --- 4. ---------------------------------------------------------------------------------------

    def _place(self) -> None:
        for rank in self.ranks:
            at = 0.0
            for before, name in zip([None, *rank], rank, strict=False):
                at += self._distance(before, name) if before else 0.0
                self.x[name] = at
        both = {n: [*self.above.get(n, ()), *self.below.get(n, ())] for n in self.items}
        for sweep in range(2 * SWEEPS):
            down = sweep % 2 == 0
            # First by one side, which moves far, then by both, so that neither prevails.
            sides = both if sweep >= SWEEPS else self.above if down else self.below
            for rank in self.ranks if down else self.ranks[::-1]:
                self._settle(rank, sides)

    def _distance(self, a: str, b: str) -> float:
        """The least distance between the centres of neighbours in a rank."""
        one, two = self.items[a], self.items[b]
        gap = ITEM_GAP if one.width and two.width else POINT_GAP
        return (one.width + two.width) / 2 + gap

    def _settle(
        self, rank: Sequence[str], neighbours: Mapping[str, Sequence[tuple[str, float, float]]]
    ) -> None:
        """Move a rank to where its links are as vertical as distances allow."""
        wanted, weights, shift = [], [], [0.0]
        for a, b in pairwise(rank):
            shift.append(shift[-1] + self._distance(a, b))
        for name in rank:
            links = [
                (self._weight(name, o), self.x[o] + t - h) for o, h, t in neighbours.get(name, ())
            ]
            total = sum(weight for weight, _ in links)
            wanted.append(sum(w * x for w, x in links) / total if links else self.x[name])
            weights.append(total or 0.1)
        free = [w - s for w, s in zip(wanted, shift, strict=True)]
        for name, place, moved in zip(rank, isotonic(free, weights), shift, strict=True):
            self.x[name] = place + moved

    def _weight(self, a: str, b: str) -> float:
        """How much a link should be vertical: long links and chains more than those that meet."""
        passing = not self.items[a].width and not self.items[b].width
        upper, lower = (a, b) if any(b == other for other, *_ in self.below.get(a, ())) else (b, a)
        chain = len(self.below.get(upper, ())) == 1 and len(self.above.get(lower, ())) == 1
        return STRAIGHT if passing or chain else 1.0

    # --- the result -------------------------------------------------------------------------------

    def _finish(self) -> None:
        graph = self.graph
        left = min((self.x[n] - i.width / 2 for n, i in self.items.items()), default=0.0) - PADDING
        for name in self.x:
            self.x[name] -= left
        right = max((self.x[n] + i.width / 2 for n, i in self.items.items()), default=0.0)
        graph.width = right + PADDING
        tops, heights = self._heights()
        at = {name: n for n, rank in enumerate(self.ranks) for name in rank}
        for name, item in self.items.items():
            n = at[name]
            y = tops[n] + (heights[n] - item.height) / 2
            if name in graph.items:
                graph.places[name] = (self.x[name] - item.width / 2, y)
        starts, ends = self._offsets(upper=True), self._offsets(upper=False)
        for number, (link, chain) in enumerate(zip(graph.links, self.chains, strict=True)):
            points: list[Point] = []
            for k, name in enumerate(chain):
                item, top = self.items[name], tops[at[name]]
                if k == 0:
                    y = graph.places[name][1] + item.height
                    points.append((self.x[name] + starts[number], y))
                    if graph.ports.get(name) == "in":  # straight past the title of the box
                        points.append((self.x[name], y + HEADING))
                elif k == len(chain) - 1:
                    points.append((self.x[name] + ends[number], graph.places[name][1]))
                else:
                    points += [(self.x[name], top), (self.x[name], top + heights[at[name]])]
            graph.routes.append((link, points[::-1] if link.back else points))

    def _heights(self) -> tuple[list[float], list[float]]:
        """The upper edge and the height of each rank. Ports lie in the borders."""
        ports = self.graph.ports
        tops: list[float] = []
        heights: list[float] = []
        y = 0.0 if "in" in ports.values() else PADDING + HEADING
        for rank in self.ranks:
            height = max((self.items[name].height for name in rank), default=0.0)
            if rank and all(ports.get(name) == "out" for name in rank):
                y += PORT_GAP - RANK_GAP if tops else 0.0
            tops.append(y)
            heights.append(height)
            entering = any(ports.get(name) == "in" for name in rank)
            y += height + (HEADING + PORT_GAP if entering else RANK_GAP)
        below = any(ports.get(name) == "out" for name in (self.ranks[-1] if self.ranks else ()))
        bottom = tops[-1] + heights[-1] if tops else PADDING
        self.graph.height = bottom + (0.0 if below else PADDING)
        return tops, heights


def isotonic(values: Sequence[float], weights: Sequence[float]) -> list[float]:
    """The non-decreasing numbers nearest to `values` by weighted squares: neighbours in the wrong
    order are pooled to their mean until none are left."""
    pools: list[tuple[float, float, int]] = []  # mean, weight, how many
    for value, weight in zip(values, weights, strict=True):
        pools.append((value, weight, 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (a, u, m), (b, v, n) = pools[-2:]
            pools[-2:] = [((a * u + b * v) / (u + v), u + v, m + n)]
    return [mean for mean, _, count in pools for _ in range(count)]
