"""Exported networks beside peers, at one example a time: `python benchmarks/ship.py`.

For the two digits networks of examples/: bytes of code, of memory beside the weights, and the time
of a prediction on one thread. Here: the library of `nnc export`, called from C; ONNX Runtime in
Python, on the same network; and emlearn's C code for the dense one, if emlearn is installed. The
figures that others have published follow, with their sources. Needs gcc, torch, onnx, onnxruntime.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np

import nnc

EXAMPLES = Path(nnc.__file__).parent / "examples"
MODELS = ("mlp_digits", "cnn_digits")
RUNS, REPEATS = 2000, 15

# What was not measured here: who says it, of what, code, RAM, time.
PUBLISHED = """
published, not measured here:
  onnx2c (README): a net for sine on an STM32F411: 8,276 B of code, 20 us
  STM32Cube.AI (the same README): 14,372 B, 490 us
  TinyMaix (README): MNIST in int8 on an ATmega328: 2.4 KB of flash, 1.4 KB of RAM, 49.9 ms
  ExecuTorch (README): the runtime without kernels: below 50 KB
None of them trains; of those above, only the libraries of nnc do."""

OTHER = """
#include "net.h"
#include <stdio.h>
#include <time.h>
static float image[64];
volatile int found;
int main(void) {{
    double best = 1e9;
    for (int repeat = 0; repeat < {repeats}; repeat++) {{
        struct timespec a, b;
        clock_gettime(CLOCK_MONOTONIC, &a);
        for (int n = 0; n < {runs}; n++) {{
            image[n % 64] = n % 16 / 16.0f;
            found = net_predict(image, 64);
        }}
        clock_gettime(CLOCK_MONOTONIC, &b);
        double spent = (b.tv_sec - a.tv_sec) + 1e-9 * (b.tv_nsec - a.tv_nsec);
        if (spent < best) best = spent;
    }}
    printf("%.3f\\n", 1e6 * best / {runs});
    return 0;
}}
"""

TIMER = """
#include "{prefix}.h"
#include <stdio.h>
#include <time.h>
static _Alignas({big}_ALIGNMENT) unsigned char arena[{big}_PREDICT_ARENA_BYTES];
int main(void) {{
    double best = 1e9;
    for (int repeat = 0; repeat < {repeats}; repeat++) {{
        struct timespec a, b;
        clock_gettime(CLOCK_MONOTONIC, &a);
        for (int n = 0; n < {runs}; n++) {{
            {prefix}_predict_image(arena)[n % 64] = n % 16 / 16.0f;
            int code = {prefix}_predict(
                arena, sizeof arena, {prefix}_weights, {big}_WEIGHTS_BYTES, 1);
            if (code) return 1;
        }}
        clock_gettime(CLOCK_MONOTONIC, &b);
        double spent = (b.tv_sec - a.tv_sec) + 1e-9 * (b.tv_nsec - a.tv_nsec);
        if (spent < best) best = spent;
    }}
    printf("%.3f\\n", 1e6 * best / {runs});
    return 0;
}}
"""


def row(model: str, system: str, code: int, ram: int, micros: float) -> None:
    print(f"{model:12} {system:34} {code:>12,} {ram:>12,} {micros:>9.2f}", flush=True)


def ours(model: str, folder: Path) -> None:
    """The library for this computer, and what one for a Cortex-M4 would take."""
    network = nnc.load(EXAMPLES / f"{model}.nn")
    network.init()
    sizes = {}
    for target, kinds in (("host", "o"), ("cortex-m4", "a")):
        place = folder / f"{model}-{target}"
        network.export(
            place, target=target, kinds=kinds, embed=True, batch=1, functions=("predict",)
        )
        sizes[target] = about = json.loads((place / "manifest.json").read_text())
        prefix = about["prefix"]
    here = folder / f"{model}-host"
    text = TIMER.format(prefix=prefix, big=prefix.upper(), runs=RUNS, repeats=REPEATS)
    (here / "timer.c").write_text(text)
    subprocess.run(["gcc", "-O2", "timer.c", f"{prefix}.o", "-o", "timer"], cwd=here, check=True)
    spent = float(subprocess.run(["./timer"], cwd=here, capture_output=True, text=True).stdout)
    host, board = sizes["host"], sizes["cortex-m4"]
    function = f"{prefix}_predict"
    row(model, "nnc, C, this computer", host["bytes"]["code"],
        host["functions"][function]["arena_bytes"], spent)  # fmt: skip
    code = board["bytes"][f"code of {prefix}"] + board["bytes"][f"code of {function}"]
    ram = board["bytes"][f"RAM for {function}"]
    print(f"{model:12} {'nnc, Cortex-M4 (bytes only)':34} {code:>12,} {ram:>12,}")


def quickest(run: Callable[[], object]) -> float:
    """Microseconds of a call, the best of several means."""
    found = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        for _ in range(RUNS):
            run()
        found.append((time.perf_counter() - begin) / RUNS * 1e6)
    return min(found)


def resident() -> int:
    """Bytes of this process in memory."""
    (line,) = (s for s in Path("/proc/self/status").read_text().splitlines() if "VmRSS" in s)
    return int(line.split()[1]) * 1024


def emlearn_side(folder: Path) -> None:
    """The dense network in emlearn's C code: quick for this computer, short for a Cortex-M4."""
    import emlearn
    from sklearn.neural_network import MLPClassifier

    images, labels = np.random.default_rng(0).random((200, 64)), np.arange(200) % 10
    network = MLPClassifier((64,), activation="relu", max_iter=2).fit(images, labels)
    emlearn.convert(network, method="inline").save(file=str(folder / "net.h"), name="net")
    (folder / "net.c").write_text(OTHER.format(runs=RUNS, repeats=REPEATS))
    (folder / "only.c").write_text(
        '#include "net.h"\nint one(float *x) { return net_predict(x, 64); }\n'
    )
    flags = [f"-I{emlearn.includedir}", "-w", "-ffunction-sections"]
    here = ["gcc", "-O3", "-march=native", "-ffast-math", *flags]
    subprocess.run([*here, "net.c", "-o", "net", "-lm"], cwd=folder, check=True)
    spent = float(subprocess.run(["./net"], cwd=folder, capture_output=True, text=True).stdout)
    board = ["arm-none-eabi-gcc", "-Os", "-mcpu=cortex-m4", "-mfpu=fpv4-sp-d16", "-mthumb"]
    for name, compiler in (("this computer", here), ("Cortex-M4", [*board, "-mfloat-abi=hard"])):
        command = [*compiler, *flags, "-c", "only.c", "-o", "only.o"]
        subprocess.run(command, cwd=folder, check=True)
        listed = subprocess.run(
            ["readelf", "-W", "-S", "only.o"], cwd=folder, capture_output=True, text=True
        ).stdout
        parts = [p.split("]", 1)[1].split() for p in listed.splitlines() if "BITS" in p]
        code = sum(int(p[4], 16) for p in parts if p[0].startswith(".text"))
        ram = sum(int(p[4], 16) for p in parts if p[0].startswith((".data", ".bss")))
        label = f"emlearn {emlearn.__version__}, {name}"
        if compiler is here:
            row("mlp_digits", label, code, ram, spent)
        else:
            print(f"{'mlp_digits':12} {label:34} {code:>12,} {ram:>12,}")


def onnx_model(model: str) -> bytes:
    """The network as PyTorch exports it."""
    import torch
    from torch import nn

    dense = [nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)]
    convolutions = [
        nn.Conv2d(1, 16, 3, padding="same"), nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding="same"), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10),
    ]  # fmt: skip
    network = nn.Sequential(*(dense if model == "mlp_digits" else convolutions)).eval()
    file = io.BytesIO()
    torch.onnx.export(network, (torch.zeros(1, 1, 8, 8),), file, dynamo=False, input_names=["x"])
    return file.getvalue()


def onnx_side(model: str, path: Path) -> None:
    """In a process of its own, as its memory is measured: the row."""
    before = resident()
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    given = {"x": np.zeros((1, 1, 8, 8), np.float32)}
    session.run(None, given)
    ram = resident() - before - path.stat().st_size
    (library,) = Path(onnxruntime.__file__).parent.glob("capi/*pybind11_state*.so")
    spent = quickest(lambda: session.run(None, given))
    name = f"ONNX Runtime {onnxruntime.__version__}, Python"
    row(model, name, library.stat().st_size, ram, spent)


def main() -> None:
    if len(sys.argv) == 3:
        onnx_side(sys.argv[1], Path(sys.argv[2]))
        return
    print(f"{'model':12} {'system':34} {'code, B':>12} {'RAM, B':>12} {'us':>9}")
    with tempfile.TemporaryDirectory() as name:
        for model in MODELS:
            ours(model, Path(name))
            path = Path(name) / f"{model}.onnx"
            path.write_bytes(onnx_model(model))
            subprocess.run([sys.executable, __file__, model, str(path)], check=True)
        if find_spec("emlearn"):
            emlearn_side(Path(name))
    print(PUBLISHED)


if __name__ == "__main__":
    main()
