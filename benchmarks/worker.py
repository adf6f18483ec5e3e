"""One system in one process: it is made ready once and then takes turns with the others.

In: a JSON object as argument, then commands as JSON lines on stdin. Out: a JSON line for each on
stdout; what libraries print goes to stderr. Started by `run.py`.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
import time
from pathlib import Path

WARMUP = 3

SYSTEMS = {
    "nnc": "nnc_side",
    "torch": "peers_torch", "torch compiled": "peers_torch",
    "jax": "peers_jax",
    "tensorflow": "peers_tensorflow", "tensorflow XLA": "peers_tensorflow",
    "onnxruntime": "peers_onnx",
}  # fmt: skip
COMPILED = ("torch compiled", "tensorflow XLA")


def main() -> None:
    task = json.loads(sys.argv[1])
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, set(cores[: task["threads"]]))
    runner = prepared(task)
    runner.step()
    ready = {"first_step_s": time.time() - task["started"], "loss": runner.loss()}
    ready |= {
        name: getattr(runner, name) for name in ("gflop", "gbyte", "arena") if hasattr(runner, name)
    }
    answers.write(json.dumps(ready) + "\n")
    for line in sys.stdin:
        answers.write(json.dumps(answer(runner, json.loads(line))) + "\n")


def prepared(task: dict):
    """The runner of the system that the task names, compiled when first run."""
    module = importlib.import_module(SYSTEMS[task["system"]])
    from workloads import Workload

    workload = Workload.of(task["workload"])
    if task["system"] == "nnc":
        make = module.ProductRunner if workload.kind == "product" else module.Runner
        return make(workload, task["threads"])
    compiled = task["system"] in COMPILED
    return module.runner(workload, Path(task["data"]), task["threads"], compiled)


def answer(runner, command: dict) -> dict:
    match command["do"]:
        case "run":
            return {"times": timed(runner, command["steps"], command["seconds"])}
        case "losses":
            return {"losses": losses(runner, command["steps"])}
        case "export":
            runner.export(Path(command["path"]))
    return {"peak_mb": peak_bytes() / 1e6}


def timed(runner, steps: int | None, seconds: float) -> list[float]:
    """Milliseconds of each step: so many, or as many as fit into the time, at least five."""
    runner.reset()  # no training is long enough for gradients to become denormal numbers
    for _ in range(WARMUP):
        runner.step()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < (steps or 5) or (steps is None and time.perf_counter() < end):
        begin = time.perf_counter()
        runner.step()
        times.append((time.perf_counter() - begin) * 1e3)
        if steps is None and len(times) >= 500:
            break
    return times


def losses(runner, steps: int) -> list[float]:
    """The loss of each of the first steps from the first weights."""
    runner.reset()
    found = []
    for _ in range(steps):
        runner.step()
        found.append(runner.loss())
    return found


def peak_bytes() -> int:
    """The most memory that this program has held, without what its parent held before it began."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    main()
