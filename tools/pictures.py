"""Draw docs/pictures/*.svg: `python tools/pictures.py`.

The arena is drawn from the compiler's own plan of `examples/cnn_digits.nn`, the pipeline from its
list of passes; the register tile and tiled attention are explained with the sizes that they have.
The picture of the README shows what nnc prints for a small program, and what it learns.
"""

from __future__ import annotations

import re
from html import escape
from pathlib import Path

import numpy as np
from drawing import Svg

from nnc import loads
from nnc.compiler.passes.kernels.kernel import Plan
from nnc.compiler.pipeline import CPU, gpu, plan
from nnc.compiler.programs import training_step
from nnc.compiler.targets import CPU_TARGETS
from nnc.runtime.data import Search, load
from nnc.runtime.project import open_project, planned_setup

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "pictures"
SHARED, ON_CPU, ON_GPU, ACCENT = "#dfe8f5", "#dff0e2", "#fbe8d3", "#c0392b"
COLOURS = ("#9ec5e8", "#a8d5ba", "#f4c095", "#d7b5e0", "#f2a8a8", "#e6d690", "#b3c0cc")


def pipeline() -> None:
    """The stages, and which of them CPU and GPU share."""
    picture = Svg(900, 640, "What CPU and GPU share")
    steps = (
        ("text", "dsl/syntax, dsl/check", "--emit ast"),
        ("equations, grad(y, x)", "compiler/elaboration", "--emit equations"),
        ("equations of the whole step", "passes/autodiff", "--emit gradients"),
        ("better equations", "passes/equations", "--print-changed"),
    )
    for n, (what, where, command) in enumerate(steps):
        y = 20 + 62 * n
        picture.box(150, y, 600, 42, SHARED)
        picture.text(165, y + 26, what, 14)
        picture.code(430, y + 26, where)
        picture.code(610, y + 26, command)
        if n:
            picture.arrow(450, y - 20, 450, y - 1)
    names = {each.name for each in CPU.system} & {each.name for each in gpu().system}
    for x, title, fill, line in (
        (20, "CPU", ON_CPU, CPU),
        (470, "GPU", ON_GPU, gpu()),
    ):
        own = [p.name for p in line.system if p.name not in names]
        picture.arrow(x + 205, 250, x + 205, 272)
        picture.box(x, 273, 410, 92, fill)
        picture.text(x + 15, 293, f"{title}: passes of its own over equations", 14)
        for row in range(0, len(own), 2):
            picture.code(x + 15, 311 + 8.5 * row, "  ".join(own[row : row + 2]), 11)
        if not own:
            picture.text(x + 15, 315, "none: blocks of threads hide what these would save", 12)
        picture.arrow(x + 205, 366, x + 205, 384)
        picture.box(x, 385, 410, 92, fill)
        picture.text(x + 15, 405, "plan: kernels, order, memory, barriers", 14)
        own = [p.name for p in line.plan]
        for row in range(0, len(own), 3):
            picture.code(x + 15, 425 + 6 * row, "  ".join(own[row : row + 3]), 11)
        picture.code(x + 290, 467, "--emit kernels", 11)
        picture.arrow(x + 205, 478, x + 205, 496)
    for x, fill, rows in (
        (20, ON_CPU, (("loops, register tiles", "passes/cpu", "--emit loops"),
                      ("LLVM IR, machine code", "codegen/llvm", "--emit llvm, asm"))),
        (470, ON_GPU, (("blocks and threads", "passes/gpu", ""),
                       ("CUDA C++, PTX", "codegen/cuda", "--emit cuda, ptx"))),
    ):  # fmt: skip
        for n, (what, where, command) in enumerate(rows):
            y = 497 + 62 * n
            picture.box(x, y, 410, 42, fill)
            picture.text(x + 12, y + 26, what, 13)
            picture.code(x + 185, y + 26, where, 11)
            picture.code(x + 285, y + 26, command, 11)
            if n:
                picture.arrow(x + 205, y - 20, x + 205, y - 1)
    picture.write(FOLDER / "pipeline.svg")


def register_tile() -> None:
    """8 rows by 2 vectors of 16: one element of x for each row, two vectors of w for each step."""
    picture = Svg(820, 420, "A register tile")
    left, top, cell = 190, 120, 17
    picture.text(20, 28, "y[b, o] = sum(i) x[b, i] * w[i, o]", 15)
    picture.text(20, 50, "One step of the loop along i:", 13)
    picture.text(left, 78, "two vectors of one row of w, loaded once for the 8 rows", 13)
    for vector in range(2):
        for lane in range(16):
            picture.box(left + vector * 290 + lane * cell, 88, cell, cell, COLOURS[1])
    for row in range(8):
        y = top + 12 + row * 30
        picture.box(left - 60, y, cell, cell, COLOURS[2])
        picture.text(left - 70, y + 13, f"x[b+{row}, i]", 12, "end")
        for vector in range(2):
            for lane in range(16):
                picture.box(left + vector * 290 + lane * cell, y, cell, cell, COLOURS[0])
    picture.text(
        left, top + 270, "16 accumulators, each a register of 16 numbers: they stay where", 13
    )
    picture.text(
        left, top + 288, "they are until the loop ends, then bias, relu and its gradient follow", 13
    )
    picture.text(20, top + 270, "8 numbers, each", 13)
    picture.text(20, top + 288, "spread to a vector", 13)
    picture.write(FOLDER / "register_tile.svg")


def planned() -> Plan:
    """The training step of the CNN on digits, for a processor by name."""
    example = ROOT / "examples" / "cnn_digits.nn"
    project = open_project(example, [], None)
    setup = planned_setup(project, Search(None, example.parent, offline=True))
    return plan(training_step(setup)[0], CPU_TARGETS["zen5"])


def arena() -> None:
    """Temps of a training step: kernels from left to right, addresses from top to bottom."""
    made = planned()
    kernels = list(made.kernels)
    alive: dict[str, tuple[int, int]] = {}
    for number, kernel in enumerate(kernels):
        touched = {name for eq in kernel.equations for name in (*eq.sources, eq.target)}
        for name in touched - kernel.local:
            tensor = made.system.tensors[name]
            if tensor.kind == "temp" and name not in made.system.outputs and name in made.offsets:
                alive[name] = alive.get(name, (number, number))[0], number
    updated = set(made.system.updates.values())
    alive = {name: span for name, span in alive.items() if name not in updated}
    sizes = {name: made.system.tensors[name].bytes for name in alive}
    start = min(made.offsets[name] for name in alive)
    end = max(made.offsets[name] + sizes[name] for name in alive)
    picture = Svg(900, 470, "The arena of a training step")
    left, top, width, height = 90, 60, 790, 350
    column, scale = width / len(kernels), height / (end - start)
    picture.text(20, 26, "Temps of the training step of examples/cnn_digits.nn", 15)
    picture.text(20, 46, f"{sum(sizes.values()):,} bytes in {end - start:,} bytes of memory", 13)
    for n, (name, (first, last)) in enumerate(sorted(alive.items(), key=lambda a: -sizes[a[0]])):
        x, y = left + first * column, top + (made.offsets[name] - start) * scale
        w, h = (last - first + 1) * column, max(sizes[name] * scale, 1.0)
        picture.box(x, y, w, h, COLOURS[n % len(COLOURS)])
        if h > 14 and w > 7 * len(name):
            picture.text(x + 4, y + h / 2 + 4, name, 11)
    picture.arrow(left, top + height + 22, left + width, top + height + 22)
    picture.text(left, top + height + 42, f"the {len(kernels)} kernels of a step, in order", 13)
    picture.text(20, top + 14, "address", 13)
    picture.arrow(45, top + 22, 45, top + height)
    picture.write(FOLDER / "arena.svg")


def attention() -> None:
    """Tiled attention: what a block, a warp and a lane hold."""
    picture = Svg(1240, 480, "Tiled attention by block, warp and lane")
    picture.text(
        20, 28, "weights = softmax(q · k), y = weights · v, and no weight is ever stored", 15
    )
    left, top, cell = 40, 80, 24
    picture.text(left, top - 12, "the T × T weights of one head", 13)
    for row in range(12):
        for column in range(12):
            seen = column <= row
            block = 4 <= row < 8
            fill = (COLOURS[0] if block else "#eef2f7") if seen else "#ffffff"
            picture.box(left + column * cell, top + row * cell, cell, cell, fill)
    picture.box(left - 3, top + 4 * cell - 3, 12 * cell + 6, 4 * cell + 6, "none", ACCENT)
    picture.text(
        left, top + 12 * cell + 24, "A block has 64 queries and walks along the keys, tile", 13
    )
    picture.text(
        left, top + 12 * cell + 42, "by tile; tiles above the causal diagonal are skipped.", 13
    )
    middle = 440
    picture.text(middle, top - 12, "one tile, 64 × 64: four warps, 16 rows each", 13)
    for warp in range(4):
        y = top + warp * 50
        picture.box(middle, y, 330, 50, COLOURS[warp])
        picture.text(middle + 10, y + 30, f"warp {warp}: mma.sync m16n8k16, eight times", 12)
    picture.text(middle, top + 226, "Shared memory: keys and values of this tile, and of the", 13)
    picture.text(middle, top + 244, "next, which cp.async brings meanwhile.", 13)
    picture.text(middle, top + 276, "Registers of a row: its running maximum m and sum s.", 13)
    picture.code(middle, top + 300, "m' = max(m, max of the tile)")
    picture.code(middle, top + 318, "s' = s * exp(m - m') + sum of exp(score - m')")
    picture.code(middle, top + 336, "y' = y * exp(m - m') + exp(score - m') · v")
    right = 860
    picture.text(right, top - 12, "a warp's 16 × 8 results: lanes", 13)
    for row in range(8):
        for column in range(4):
            x, y = right + column * 70, top + row * 25
            picture.box(x, y, 70, 25, COLOURS[(row * 4 + column) % 7])
            picture.text(x + 35, y + 17, f"{row * 4 + column}", 12, "middle")
    picture.text(right, top + 226, "Each lane has two neighbours here and two eight", 13)
    picture.text(right, top + 244, "rows below: a row's maximum needs two shuffles", 13)
    picture.text(right, top + 262, "among four lanes.", 13)
    picture.write(FOLDER / "attention.svg")


DIGITS = """model Digits(image: f32[B, 8, 8, 1]) -> logits: f32[B, 10] {
    logits = image |> Conv(16, 3) |> relu |> Flatten |> Affine(10)
}

layer Affine(units)(x: [B, n]) -> y: [B, units] {
    param w: [n, units] ~ glorot_uniform
    y[b, o] = sum(i) x[b, i] * w[i, o]
}

train Digits {
    data      = digits()
    loss      = cross_entropy(logits, label)
    metric accuracy = mean(argmax(logits) == label)
    optimizer = adam(lr = 2e-3)
    epochs    = 12
}"""
WORDS = r"\b(model|layer|param|train|sum|metric)\b"


def _panel(picture: Svg, x: int, y: int, w: int, h: int, title: str, lines: list[str]) -> None:
    """Lines of code with a title above them; the words of the language stand out."""
    picture.text(x, y - 8, title, 14)
    picture.box(x, y, w, h, "#f7f9fc")
    for n, line in enumerate(lines):
        parts = re.split(WORDS, line)
        spans = "".join(
            f'<tspan fill="#2457a6" font-weight="bold">{part}</tspan>' if k % 2 else escape(part)
            for k, part in enumerate(parts)
        )
        picture.parts.append(
            f'<text x="{x + 12}" y="{y + 22 + 17 * n}" font-size="12" font-family="monospace" '
            f'xml:space="preserve">{spans}</text>'
        )


def _found(text: str, *starts: str) -> list[str]:
    """The lines of a stage that begin so, without what the sizes of their indices are."""
    lines = (line.strip() for line in text.splitlines())
    return [re.sub(r" < \d+", "", line) for line in lines if line.startswith(starts)]


def overview() -> None:
    """What is written, what nnc makes of it, and what the network has learnt."""
    picture = Svg(1080, 600, "A program, its gradient, its machine code, and what it has learnt")
    model = loads(DIGITS)
    _panel(picture, 20, 34, 560, 290, "model.nn: the equations", DIGITS.splitlines())
    lines = _found(model.compile("gradients"), "d_affine1_w[", "d_flatten1_merge2_y[")
    lines = [part for line in lines for part in line.replace(" = ", "\n    = ").splitlines()]
    lines = [line.replace("d_cross_entropy1_log_softmax1_z", "d_logits") for line in lines]
    lines = [line.replace("flatten1_merge2_y", "x").replace("affine1_w", "w") for line in lines]
    _panel(picture, 600, 34, 460, 90, "nnc compile --emit gradients: the backward pass", lines)
    code = [line for line in model.compile("asm").splitlines() if "vfmadd" in line][:8]
    code = [" ".join(line.split()) for line in code]
    _panel(picture, 600, 158, 460, 166, "nnc compile --emit asm: here for AVX-512", code)
    history = model.fit(verbose=False)
    _curve(picture, 20, 364, [r["test_accuracy"] for r in history])
    _digits(picture, 600, 364, model)
    picture.write(FOLDER / "overview.svg")


def _curve(picture: Svg, x: int, y: int, values: list[float]) -> None:
    picture.text(x, y - 8, "nnc train: images it has never seen, recognised", 14)
    picture.box(x, y, 560, 210, "#f7f9fc")
    low, high = 0.85, 1.0
    for share in (0.85, 0.9, 0.95, 1.0):
        height = y + 190 - 170 * (share - low) / (high - low)
        picture.parts.append(
            f'<path d="M{x + 50},{height:.1f} H{x + 540}" stroke="#dde3ec" fill="none"/>'
        )
        picture.text(x + 42, height + 4, f"{share:.0%}", 11, "end")
    points = [
        f"{x + 60 + 470 * n / (len(values) - 1):.1f},"
        f"{y + 190 - 170 * (max(v, low) - low) / (high - low):.1f}"
        for n, v in enumerate(values)
    ]
    picture.parts.append(
        f'<polyline points="{" ".join(points)}" fill="none" stroke="#2457a6" stroke-width="2.5"/>'
    )
    picture.text(x + 540, y + 178, f"{len(values)} epochs: {values[-1]:.1%}", 13, "end")


def _digits(picture: Svg, x: int, y: int, model) -> None:
    """Five pictures of the test set, and how sure the network is of what they are."""
    found = load("digits", {}, Search(None, None, offline=True)).test
    images = np.asarray(found.arrays["image"][10:15], np.float32) / 16  # as training reads them
    logits = model.predict(images)
    chances = np.exp(logits - logits.max(1, keepdims=True))
    chances /= chances.sum(1, keepdims=True)
    picture.text(x, y - 8, "nnc predict", 14)
    picture.box(x, y, 460, 210, "#f7f9fc")
    for n, image in enumerate(images):
        left, top, cell = x + 18 + 87 * n, y + 40, 9.5
        for (row, column), ink in np.ndenumerate(image[..., 0] / images.max()):
            grey = round(255 - 225 * float(ink))
            picture.parts.append(
                f'<rect x="{left + column * cell:.1f}" y="{top + row * cell:.1f}" width="{cell}" '
                f'height="{cell}" fill="rgb({grey},{grey},{grey})"/>'
            )
        best = int(chances[n].argmax())
        picture.text(left + 38, y + 142, str(best), 22, "middle")
        picture.text(left + 38, y + 164, f"{chances[n, best]:.0%}", 12, "middle")


if __name__ == "__main__":
    overview()
    pipeline()
    register_tile()
    arena()
    attention()
