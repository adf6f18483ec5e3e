"""Everything there is to know about the device `cuda` on a machine with a GPU, by one command:

    python benchmarks/gpu.py --out DIR

In: nothing else; it asks nothing. Examples whose data is not in the package are left out, unless
`--data` says where it is. Out: DIR/gpu.md with tables, DIR/gpu.json with all figures, rewritten
after every part; DIR/primitives.npz, to be kept as `tests/backends/goldens/NAME.npz`; and what the
parts print, in DIR/parts. Each part runs in a process of its own with a time limit and keeps what
it has found so far: one that fails or hangs leaves the others. All limits together are under 25
minutes. `--device simulator` runs all of it in small without a GPU, to test this script.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from gpu_report import Results, report

LIMITS = {  # seconds
    "machine": 20, "primitives": 50, "kernels": 290, "repeat": 80, "meetings": 40,
    "examples": 110, "bandwidth": 60, "products": 60, "cublas": 60, "steps": 140, "gpt2": 120,
    "torch": 250, "jax": 120, "profiles": 90,
}  # fmt: skip


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("gpu-results"))
    parser.add_argument("--data", type=Path, help="where MNIST and the like are")
    parser.add_argument("--device", choices=("cuda", "simulator"), default="cuda")
    parser.add_argument("--parts", default=",".join(LIMITS), help="all of: %(default)s")
    parser.add_argument("--part", choices=list(LIMITS), help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.part:
        run_part(given)
        return 0
    names = given.parts.split(",")
    if unknown := [name for name in names if name not in LIMITS]:
        parser.error(f"no part {', '.join(unknown)}; there are {', '.join(LIMITS)}")
    (given.out / "parts").mkdir(parents=True, exist_ok=True)
    results: Results = {}
    with tempfile.TemporaryDirectory() as cache:
        for name in names:
            results[name] = in_process(name, given, {**os.environ, "NNC_CACHE": cache})
            print(f"{name}: {json.dumps(results[name])[:300]}", flush=True)
            (given.out / "gpu.json").write_text(json.dumps(results, indent=1))
            (given.out / "gpu.md").write_text(report(results))
            if name == "machine" and results[name].get("problem"):
                print(results[name]["problem"], results[name]["remedy"], sep="\n", file=sys.stderr)
                return 1
    return int(any("failed" in result for result in results.values()))


def in_process(name: str, given: argparse.Namespace, environment: dict[str, str]) -> dict:
    """What the part found, and why no more. Its processes are its own, and end with it."""
    kept, log = (given.out / "parts" / f"{name}.{kind}" for kind in ("json", "log"))
    kept.unlink(missing_ok=True)
    data = ["--data", str(given.data)] if given.data else []
    command = [
        sys.executable,
        __file__,
        "--part",
        name,
        "--device",
        given.device,
        "--out",
        str(given.out),
        *data,
    ]
    started = time.monotonic()
    failed = ""
    with log.open("w") as written:
        process = subprocess.Popen(
            command,
            stdout=written,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        try:
            if process.wait(LIMITS[name]):
                failed = log.read_text(errors="replace")[-2000:]
        except subprocess.TimeoutExpired:
            failed = f"not done in {LIMITS[name]} s"
        if failed:
            end(process)
    found = json.loads(kept.read_text()) if kept.exists() else {}
    seconds = round(time.monotonic() - started, 1)
    return {**({"failed": failed} if failed else {}), **found, "seconds": seconds}


def end(process: subprocess.Popen) -> None:
    """The part, and what it has started: compilers go on when their parent is gone."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def run_part(given: argparse.Namespace) -> None:
    """Here and now; what it notes is in its file at once, whole."""
    found: dict = {}
    path = given.out / "parts" / f"{given.part}.json"

    def note(more: dict) -> None:
        found.update(more)
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps(found))
        fresh.replace(path)

    part_named(given.part)(given.device, given.out, given.data, note)


def part_named(name: str) -> Callable:
    """The part's function; PyTorch and JAX are imported for their own parts alone."""
    import gpu_checks as checks
    import gpu_peers as peers
    import gpu_speed as speed

    return {
        "machine": checks.machine,
        "primitives": checks.primitives,
        "kernels": checks.kernels,
        "repeat": checks.repeat,
        "meetings": checks.meetings,
        "examples": checks.examples,
        "bandwidth": speed.bandwidth,
        "products": speed.products,
        "cublas": peers.cublas,
        "steps": speed.steps,
        "gpt2": speed.gpt2,
        "torch": peers.torch_steps,
        "jax": peers.jax_steps,
        "profiles": speed.profiles,
    }[name]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
