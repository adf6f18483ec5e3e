"""Tiles whose products are multiplications and additions of threads.

In: a `Grid` whose `how` is a `Tile` without tensor cores. Out: lines of its kernel, by `ring.py`.
In shared memory every point has a row of elements; a thread takes neighbours of it together.
"""

from __future__ import annotations

from ...passes.gpu.grid_ir import GAP, Grid, Tile
from .expressions import Writer
from .tile_loader import Ring, Side

UNROLLED = 4  # points whose products stand in a row


class Threads(Ring):
    """A thread holds `rows` by `columns` results, which lie in groups of GAP or fewer."""

    pack = 1

    def __init__(self, w: Writer, grid: Grid, how: Tile):
        super().__init__(w, grid, how)
        self.word = grid.dtype

    def start(self) -> None:
        how, across = self.how, self.how.width // self.how.columns
        self.w.line(f"const i32 row = THREAD / {across}, column = THREAD % {across};")
        self.w.line(f"{self.word} sum[{len(how.rights)}][{how.rows}][{how.columns}] = {{}};")

    def element(self, side: Side, slot: str, k: str, x: str) -> str:
        size = self.how.slot(side.length)
        return (
            f"{side.array}, {slot} * {size} + {k} * {side.length + GAP} + {x}, "
            f"{self.how.stages * size}"
        )

    def multiply(self) -> None:
        w, how = self.w, self.how
        w.line(f"#pragma unroll {UNROLLED}")
        with w.block(f"for (i32 k = 0; k < {how.depth}; ++k)"):
            self._get(self.left, "a", "row", how.rows)
            for n, right in enumerate(self.rights):
                self._get(right, f"b{n}", "column", how.columns)
                w.line("#pragma unroll")
                with w.block(f"for (i32 r = 0; r < {how.rows}; ++r)"):
                    w.line("#pragma unroll")
                    w.line(
                        f"for (i32 c = 0; c < {how.columns}; ++c) sum[{n}][r][c] += a[r] * b{n}[c];"
                    )

    def _get(self, side: Side, name: str, number: str, count: int) -> None:
        """The thread's elements of one operand at the point `k`."""
        n = min(count, GAP)
        self.w.line(f"{self.word} {name}[{count}];")
        for start in range(0, count, n):
            own = number if n == 1 else f"{number} * {n}"
            x = f"{own} + {start * (side.length // count)}" if start else own
            into = f"{name} + {start}" if start else name
            self.w.line(f"GET({n}, {into}, {self.element(side, 'slot', 'k', x)});")

    def store(self) -> None:
        w, how = self.w, self.how
        w.line("#pragma unroll")
        with w.block(f"for (i32 r = 0; r < {how.rows}; ++r)"):
            m = w.let("i32", f"m0 + {_along('row', 'r', how.height, how.rows)}", "m")
            w.line("#pragma unroll")
            with w.block(f"for (i32 c = 0; c < {how.columns}; ++c)"):
                x = w.let("i32", f"n0 + {_along('column', 'c', how.width, how.columns)}", "n")
                self.result(m, x, [f"sum[{n}][r][c]" for n, _ in enumerate(how.rights)])


def _along(number: str, at: str, length: int, count: int) -> str:
    """Where the thread's element `at` lies along a side."""
    n = min(count, GAP)
    if n == 1:
        return f"{number} + {at} * {length // count}"
    return f"{number} * {n} + {at} % {n} + {at} / {n} * {n * (length // count)}"
