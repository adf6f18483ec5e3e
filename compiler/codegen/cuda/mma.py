"""Matmul tiles multiplied by tensor cores: a warp multiplies fragments of bf16 numbers.

In: a `Grid` whose `how` is a `MatmulTile` with tensor cores. Out: lines of its kernel, by
`tile_loader`. A word of shared memory is two bf16 numbers, adjacent as in memory: along the points
or along the operand's side; in the latter case ldmatrix transposes. Groups of 4 words are permuted
within every row (swizzled), so that the 8 rows of a matrix lie in different banks. Which lane holds
which element is that of `mma.sync.m16n8k16` and `ldmatrix` in the PTX ISA.
"""

from __future__ import annotations

from .tile_loader import MatmulWriter, Side

ROW, COLUMN, DEPTH = 16, 8, 16  # of one mma.sync


class MmaMatmul(MatmulWriter):
    """A warp accumulates `rows` by `columns` results, 4 of every 16 by 8 in a lane."""

    word, elements_per_word = "u32", 2

    def start(self) -> None:
        w, how = self.w, self.how
        # warps across the tile; they are numbered along its columns first
        across = how.width // how.columns
        w.line(
            f"const i32 lane = THREAD % 32, row = THREAD / 32 / {across} * {how.rows}, "
            f"column = THREAD / 32 % {across} * {how.columns};"
        )
        # of 16 by 8 results each lane holds 4
        shape = f"[{how.rows // ROW}][{how.columns // COLUMN}][4]"
        w.line(f"f32 sum[{len(how.rights)}]{shape} = {{}};")

    def element(self, side: Side, slot: str, k: str, x: str) -> str:
        # the inner index is the one along which two elements share a word
        outer, inner = (x, k) if side.operand.along_points else (k, x)
        return self._word(side, slot, outer, f"({inner}) / 2")

    def _word(self, side: Side, slot: str, row: str, word: str) -> str:
        size = self.how.stage_words(side.length)
        # words of a row: along the points, or along the operand's side
        words = (self.how.depth if side.operand.along_points else side.length) // 2
        return (
            f"{side.array}, {slot} * {size} + nn::swizzled<{words}>({row}, {word}), "
            f"{self.how.stages * size}"
        )

    def multiply(self) -> None:
        w, how = self.w, self.how
        high, broad = how.rows // ROW, how.columns // COLUMN
        w.line("#pragma unroll")
        with w.block(f"for (i32 k = 0; k < {how.depth}; k += {DEPTH})"):
            # fragments of the left operand, held while all right ones are multiplied
            w.line(f"u32 a[{high}][4];")
            self._load(self.left, "a", "row", high, not how.left.along_points)
            for n, right in enumerate(self.rights):
                # one load of four matrices gives the fragments of 16 columns, two of `mma`
                w.line(f"u32 b{n}[{broad // 2}][4];")
                self._load(right, f"b{n}", "column", broad // 2, right.operand.along_points)
                w.line("#pragma unroll")
                with w.block(f"for (i32 i = 0; i < {high}; ++i)"):
                    w.line("#pragma unroll")
                    w.line(
                        f"for (i32 j = 0; j < {broad}; ++j) "
                        # columns 0 to 7 are the first two registers, columns 8 to 15 the other two
                        f"MMA(sum[{n}][i][j], a[i], b{n}[j / 2] + j % 2 * 2);"
                    )

    def _load(self, side: Side, name: str, own: str, count: int, crossed: bool) -> None:
        """`count` fragments of 16 elements of an operand and 16 points, four matrices of 8 by 8
        each. Lane l points to row l % 8, in memory's direction, of matrix l / 8. The second matrix
        of the left operand has the next 8 elements, of a right one the next 8 points; `crossed`:
        that is along the rows as they lie in memory."""
        w, along_points = self.w, side.operand.along_points
        # lanes 0-7, 8-15, 16-23 and 24-31 point to the rows of the four matrices
        outer, inner = (
            ("lane % 8 + lane / 16 * 8", "lane / 8 % 2 * 4")
            if crossed
            else ("lane % 16", "lane / 16 * 4")
        )
        # rows are elements of the side, words along the points
        if along_points:
            row, word = f"{own} + i * 16 + {outer}", f"k / 2 + {inner}"
        # rows are points: the load transposes
        else:
            row, word = f"k + {outer}", f"({own} + i * 16) / 2 + {inner}"
        w.line("#pragma unroll")
        w.line(
            f"for (i32 i = 0; i < {count}; ++i) MATRICES({'false' if along_points else 'true'}, "
            f"{name}[i], {self._word(side, 'slot', row, word)});"
        )

    def store(self) -> None:
        w, how = self.w, self.how
        w.line("#pragma unroll")
        with w.block(f"for (i32 i = 0; i < {how.rows // ROW}; ++i)"):
            w.line("#pragma unroll")
            with w.block(f"for (i32 j = 0; j < {how.columns // COLUMN}; ++j)"):
                w.line("#pragma unroll")
                with w.block("for (i32 q = 0; q < 4; ++q)"):
                    # register q of lane l: row l / 4 + q / 2 * 8, column l % 4 * 2 + q % 2
                    m = w.let("i32", "m0 + row + i * 16 + lane / 4 + q / 2 * 8", "m")
                    x = w.let("i32", "n0 + column + j * 8 + lane % 4 * 2 + q % 2", "n")
                    self.result(m, x, [f"sum[{n}][i][j][q]" for n, _ in enumerate(how.rights)])
