"""nnc beside PyTorch, JAX and TensorFlow: `pip install '.[bench]' && python benchmarks/run.py`.

In: the command line. Out: a table on stdout, and table, figures and plot in `results/`. Systems
that are not installed are left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from pathlib import Path

from bandwidth import bandwidth
from contest import Outcome, contest
from table import Entry, growth_table, main_table, system_lines, write
from worker import SYSTEMS
from workloads import ALL, GROUPS, TRAINING, Workload, sweep

from nnc.runtime.inspect.peak import peak

FOLDER = Path(__file__).parent


def main() -> None:
    options = arguments()
    entries: list[Entry] = []
    page = system_lines(options.threads) + "\n"
    for workload in chosen(options):
        entries.append(measured(workload, options))
        page = f"{system_lines(options.threads)}\n\n{main_table(entries)}\n"
        write(options.out, page, entries)  # after each, lest an interruption lose them all
    for name, values in grown(options):
        page += f"\n{growth(name, values, options)}\n"
        write(options.out, page, entries)
    if options.busy:
        from beside import beside

        workloads = chosen(options) or TRAINING
        page += f"\n{beside(workloads, options.threads, options.rounds, options.seconds)}\n"
        write(options.out, page, entries)
    if options.whole:
        from whole import whole_programs

        page += f"\n{whole_programs(options.data, options.threads, options.rounds)}\n"
        write(options.out, page, entries)
    print(page, end="")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--only", help=f"some of {', '.join(ALL)}; or {', '.join(GROUPS)}")
    add("--systems", default=",".join(SYSTEMS), help="some of these")
    add("--threads", type=int, default=min(2, os.cpu_count() or 1))
    add("--rounds", type=int, default=7)
    add("--steps", type=int, help="steps in a turn, instead of --seconds")
    add("--seconds", type=float, default=0.5, help="how long a turn takes")
    add("--sweep", action="store_true", help="also how cost grows with sizes and threads")
    add("--busy", action="store_true", help="also nnc beside a program that keeps a core busy")
    add("--whole", action="store_true", help="also whole programs, from start to exit")
    add("--data", type=Path, help="a folder with MNIST, for --whole")
    add("--out", type=Path, default=FOLDER / "results", help="where results are written")
    return parser.parse_args()


def chosen(options: argparse.Namespace) -> list[Workload]:
    """The workloads asked for; all without `--only`, or none if only something else is wanted."""
    if options.only is None:
        return [] if options.sweep or options.whole or options.busy else list(ALL.values())
    found: list[Workload] = []
    for name in options.only.split(","):
        if name not in GROUPS and name not in ALL:
            sys.exit(f"no workload {name!r}; there are {', '.join([*ALL, *GROUPS])}")
        found += GROUPS.get(name) or [ALL[name]]
    return found


def systems_for(workload: Workload, options: argparse.Namespace) -> list[str]:
    """nnc first; the peers that are asked for, installed, and have this workload."""
    asked = [s for s in options.systems.split(",") if s != "nnc"]
    unknown = [s for s in asked if s not in SYSTEMS]
    if unknown:
        sys.exit(f"no system {unknown[0]!r}; there are {', '.join(SYSTEMS)}")
    found = [s for s in asked if importlib.util.find_spec(s.split()[0]) and takes(s, workload)]
    return ["nnc", *found]


def takes(system: str, workload: Workload) -> bool:
    """Whether a system has this workload."""
    if system == "onnxruntime":
        return workload.kind == "predict"
    if workload.kind == "product":
        return system == "torch"
    return system.startswith("torch") or not workload.wide


def measured(workload: Workload, options: argparse.Namespace, threads: int = 0) -> Entry:
    """The outcome of a workload, with the computer's peaks measured just then."""
    threads = threads or options.threads
    systems = systems_for(workload, options)
    outcomes = contest(workload, systems, threads, options.rounds, options.steps, options.seconds)
    bytes_per_second = bandwidth(threads, outcomes[0].gbyte)
    entry = Entry(workload.name, workload.kind, threads, outcomes, peak(threads), bytes_per_second)
    print(entry.line(), file=sys.stderr, flush=True)
    for outcome in outcomes:
        if outcome.failure:
            print(f"    {outcome.system}: {outcome.failure}", file=sys.stderr, flush=True)
    return entry


def grown(options: argparse.Namespace) -> list[tuple[str, list[tuple[int, Workload, int]]]]:
    """What the sweep varies: a name, then values with their workload and threads."""
    if not options.sweep:
        return []
    sizes = [
        (name, [(value, workload, options.threads) for value, workload in values])
        for name, values in sweep().items()
    ]
    counts = range(1, (os.cpu_count() or 1) + 1)
    return [*sizes, ("cnn of batch 128, threads", [(n, ALL["cnn128"], n) for n in counts])]


def growth(name: str, values: list[tuple[int, Workload, int]], options: argparse.Namespace) -> str:
    rows: list[tuple[int, list[Outcome]]] = []
    for value, workload, threads in values:
        rows.append((value, measured(workload, options, threads).outcomes))
    return growth_table(name, rows)


if __name__ == "__main__":
    main()
