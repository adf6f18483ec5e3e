"""What each pass of the CPU's pipeline brings: `python benchmarks/ledger.py`, then docs/passes.md.

Every training step of the benchmarks and of `benchmarks/wide/` is compiled as it is and without one
pass at a time (`nnc compile --without`), and where the machine code differs, both run in turns in
one process; of the passes on what a prediction computes once, predictions of the same models. The
figure is the median over the turns of time without the pass / time with it. The
results of a processor are kept in `benchmarks/ledger/TARGET.json`; the page is written from those
of all processors, and from the head of each pass's file.

    python benchmarks/ledger.py [--only gpt,cnn32] [--passes inline,pad-rows] [--rounds 15]
    python benchmarks/ledger.py --page          # write the page from what is kept
"""

from __future__ import annotations

import argparse
import ast
import json
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from importlib import import_module

import numpy as np
from table import processor
from workloads import FOLDER, PREDICTING, TRAINING, WIDE, Workload

from nnc.compiler.elaboration.train_block import Setup
from nnc.compiler.options import DEFAULT, Options
from nnc.compiler.passes.equations.quantize import quantize
from nnc.compiler.passes.equations.weight_storage import store_weights
from nnc.compiler.pipeline import CPU, Pass, gpu, plan
from nnc.runtime.assignments import Assignment
from nnc.runtime.device.cpu import host
from nnc.runtime.device.cpu.program import CpuProgram
from nnc.runtime.device.data_inputs import fields_of
from nnc.runtime.inspect.bench import fill_random
from nnc.runtime.project import project_of_text, setup_of
from nnc.runtime.training.executor import Executor

RESULTS = FOLDER / "ledger"
PAGE = FOLDER.parent / "docs" / "passes.md"
BURST = 0.05  # seconds that one of the two runs at a time
NOISE = 0.02  # gains below it are not told from none
# What they change runs once for many predictions; a training step has nothing of it.
OF_PREDICTIONS = {
    "prologue", "fold-scales", "hoist-constants", "pack-constants", "example-blocks",
}  # fmt: skip


def main() -> None:
    options = arguments()
    if not options.page:
        kept = RESULTS / f"{host.target().name}.json"
        results = json.loads(kept.read_text()) if kept.exists() else {}
        results |= {"processor": processor(), "threads": options.threads}
        for workload in (*TRAINING, *WIDE, *PREDICTING):
            if options.only and workload.name not in options.only.split(","):
                continue
            for name, entry in measured(workload, options):
                results.setdefault("passes", {}).setdefault(name, {})[workload.name] = entry
                RESULTS.mkdir(exist_ok=True)
                kept.write_text(json.dumps(results, indent=1) + "\n")
    PAGE.write_text(page(), "utf-8")
    print(f"wrote {PAGE}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="", help="comma-separated names of models")
    parser.add_argument("--passes", default="", help="comma-separated names of passes")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--page", action="store_true", help="measure nothing, write the page")
    return parser.parse_args()


# --- measuring ------------------------------------------------------------------------------------


def measured(workload: Workload, options: argparse.Namespace) -> Iterator[tuple[str, dict]]:
    """For every pass that may be left out: its name, and the step without it over the step as it
    is, in time, memory and seconds of compiling. `None` where the machine code is the same."""
    for precision in ("f32", "bf16"):
        predicts = workload.kind == "predict"
        wanted = [
            each
            for each in once(CPU.passes)
            if is_measured(each, precision, options.passes)
            and (each.name in OF_PREDICTIONS) == predicts
        ]
        if not wanted or (precision == "bf16" and workload not in TRAINING):
            continue
        setup = setup_for(workload, precision)
        base, base_s = compiled(setup, DEFAULT, options.threads, predicts)
        text, effective = base.source.text, effective_passes(base)
        for each in wanted:
            if each.name not in effective:
                yield each.name, None
                continue
            without, seconds = compiled(
                setup, Options(without=frozenset({each.name})), options.threads, predicts
            )
            if without.source.text == text:
                yield each.name, None
                continue
            # A prediction is run again and again; without a prologue that is all of it.
            runs = (base.run_again, without.run_again) if predicts else (base.run, without.run)
            ratios = in_turns(*runs, options.rounds)
            entry = {
                "time": round(statistics.median(ratios), 4),
                "low": round(min(ratios), 4),
                "high": round(max(ratios), 4),
                "memory": round(without.plan.arena_bytes / base.plan.arena_bytes, 4),
                "compile": round(seconds / base_s, 4),
            }
            print(f"{workload.name:10} {precision} without {each.name:26} {entry}", flush=True)
            yield each.name, entry


def effective_passes(program: CpuProgram) -> set[str]:
    """The names of the passes that change anything of a program."""
    found = set()

    def note(name: str, before: object, after: object, seconds: float) -> None:
        if after is not before and after != before:
            found.add(name)

    plan(program.system, program.target, program.options, [note])
    return found


def once(passes: Iterable[Pass]) -> list[Pass]:
    """The passes, one for each name: a pass that runs several times is left out everywhere."""
    return list({each.name: each for each in passes}.values())


def is_measured(each: Pass, precision: str, names: str) -> bool:
    chosen = not names or each.name in names.split(",")
    return chosen and not each.required and ("bf16" in each.name) == (precision == "bf16")


def setup_for(workload: Workload, precision: str) -> Setup:
    batch = [Assignment("batch", str(workload.batch))] if workload.batch else []
    project = project_of_text(workload.text, f"{workload.model}.nn", None, batch)
    return replace(setup_of(project, None), precision=precision)


def compiled(
    setup: Setup, options: Options, threads: int, predicts: bool
) -> tuple[CpuProgram, float]:
    """The training step or the prediction on random data, after a first run of the latter, and the
    seconds that compiling it took."""
    programs: list[CpuProgram] = []

    def device(system):
        programs.append(CpuProgram(system, threads, options=options))
        return programs[-1]

    executor = Executor(setup, device, 1)
    began = time.perf_counter()
    bound = (
        executor.prediction(setup.batch).__enter__() if predicts else executor.training(setup.batch)
    )
    seconds = time.perf_counter() - began
    fields = {t.name: bound.program.arrays[t.name] for t in fields_of(bound.system)}
    fill_random(bound.system, fields, np.random.default_rng(1))
    bound.step[...] = 1
    if predicts:
        bound.program.run()
    return programs[-1], seconds


def in_turns(base: Callable[[], None], other: Callable[[], None], rounds: int) -> list[float]:
    """Time of `other` / time of `base`, once a round; who comes first alternates."""
    base(), other()
    began = time.perf_counter()
    base()
    steps = max(1, round(BURST / (time.perf_counter() - began)))
    ratios = []
    for number in range(rounds):
        times = {}
        for run in (base, other) if number % 2 else (other, base):
            began = time.perf_counter()
            for _ in range(steps):
                run()
            times[run] = time.perf_counter() - began
        ratios.append(times[other] / times[base])
    return ratios


# --- the page -------------------------------------------------------------------------------------


def page() -> str:
    """docs/passes.md: what each pass rewrites, and what it brings."""
    kept = {path.stem: json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))}
    lines = [
        "# The passes",
        "",
        "Written by `python benchmarks/ledger.py`; the heads are those of the passes' files. The",
        "names are those of `nnc compile --without`, `--print-after` and `--print-changed`. A",
        "*required* pass cannot be left out. The order is that of `compiler/pipeline.py`.",
        "",
        "A gain is how much longer a training step takes without the pass; of a pass on what a",
        "prediction computes once, how much longer a prediction takes (`mlp_predict32`, of 32",
        "examples): the median over interleaved rounds, and their range. Models whose machine",
        "code is the same without the pass are not listed. Memory is that of the arena.",
        f"Differences below {NOISE:.0%} are noise. Passes on bf16 numbers are measured with",
        "`precision = bf16`.",
        "",
    ]
    for target, results in kept.items():
        lines.append(f"- **{target}**: {results['processor']}, {results['threads']} threads")
    lines += products_of(kept)
    for title, passes, there in (
        ("For CPUs", CPU.passes, ()),
        ("For GPUs alone", gpu().passes, {p.name for p in CPU.passes}),
    ):
        lines += ["", f"## {title}"]
        for each in once(passes):
            if each.name not in there:
                lines += entry_of(each, kept)
    lines += ["", "## Not in the pipeline", "", "`nnc predict`, `eval` and `export` apply them",
              "to a prediction if `--weights` asks for it, as they change values."]  # fmt: skip
    for each in (Pass("store-weights", store_weights), Pass("quantize", quantize)):
        lines += entry_of(each, kept)
    return "\n".join(lines) + "\n"


def products_of(kept: dict[str, dict]) -> list[str]:
    """What register tiles, cache blocks, sliding windows and the costs measured on a target bring,
    of products alone, as they were measured in turns, one thread, with the code before them."""
    lines: list[str] = []
    for target, results in kept.items():
        rows = results.get("products", {})
        if not rows:
            continue
        lines += ["", f"## Products on {target}", ""]
        lines += [
            "`benchmarks/products.py`, one thread, in turns with PyTorch and with the code before"
        ]
        lines += [
            "panels shared by blocks, sliding windows and the costs measured there; other programs"
        ]
        lines += [
            "ran on the host: speed over theirs. The gains of `square1024` and of 1 x 1 windows"
        ]
        lines += ["from memory are over the code before panels shared by blocks alone.", ""]
        lines += ["| product | gain | beside PyTorch |", "|---|---|---|"]
        lines += [
            f"| {name} | {row['gain'] - 1:+.0%} ({row['low'] - 1:+.0%} to {row['high'] - 1:+.0%})"
            f" | {row['torch']:.2f} |"
            for name, row in rows.items()
        ]
    return lines


def entry_of(each: Pass, kept: dict[str, dict]) -> list[str]:
    module = import_module(each.function.__module__)
    path = each.function.__module__.removeprefix("nnc.").replace(".", "/") + ".py"
    required = ", *required*" if each.required else ""
    lines = ["", f"### `{each.name}`{required}", "", summary(module.__doc__ or "")]
    lines += ["", f"[`{path}`](../{path})"]
    for target, results in kept.items():
        found = results.get("passes", {}).get(each.name, {})
        rows = {name: entry for name, entry in found.items() if entry}
        if found and not rows:
            lines += ["", f"{target}: changes none of the {len(found)} models."]
        if rows:
            lines += ["", f"| {target} | gain | memory saved |", "|---|---|---|"]
            for name, entry in sorted(rows.items(), key=lambda row: -row[1]["time"]):
                lines.append(
                    f"| {name} | {entry['time'] - 1:+.1%} ({entry['low'] - 1:+.0%} to "
                    f"{entry['high'] - 1:+.0%}) | {entry['memory'] - 1:+.1%} |"
                )
    return lines


def summary(docstring: str) -> str:
    """The first paragraph and the first indented block, the rewrite, of a module's docstring."""
    text = ast.literal_eval(repr(docstring)).strip("\n")
    paragraphs = text.split("\n\n")
    rewrite = next((p for p in paragraphs if p.startswith("    ")), "")
    block = "\n".join(line[4:] for line in rewrite.splitlines())
    return paragraphs[0] + (f"\n\n```text\n{block}\n```" if block else "")


if __name__ == "__main__":
    main()
