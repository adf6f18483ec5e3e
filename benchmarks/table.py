"""Figures as a Markdown table, as JSON, and as a plot.

In: the outcomes of workloads. Out: text and files. Nothing is measured here.
"""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from contest import Outcome

PEERS = ("torch", "jax", "tensorflow", "tensorflow-cpu", "onnxruntime")


@dataclass
class Entry:
    """A workload's outcomes, nnc first; `peak` in GFLOP/s, `bandwidth` in GB/s."""

    name: str
    kind: str
    threads: int
    outcomes: list[Outcome]
    peak: float
    bandwidth: float

    @property
    def own(self) -> Outcome:
        return self.outcomes[0]

    @property
    def peers(self) -> list[Outcome]:
        return [o for o in self.outcomes[1:] if o.turns and not o.failure]

    def best(self, least: bool = False) -> Outcome | None:
        """The fastest peer by median, or by its fastest step."""
        key = (lambda o: o.least) if least else (lambda o: o.median)
        return min(self.peers, key=key, default=None)

    def ratio(self, least: bool = False) -> float | None:
        """How many times faster nnc is than the best peer."""
        peer = self.best(least)
        if peer is None or not self.own.turns:
            return None
        return peer.least / self.own.least if least else peer.median / self.own.median

    @property
    def speed(self) -> float:
        """GFLOP/s of nnc's median step."""
        return self.own.gflop / self.own.median * 1e3 if self.own.turns else float("nan")

    def floor(self, peak: float) -> float:
        """Milliseconds that the step takes at the least: all its products at the peak, or all its
        values at the bandwidth."""
        return max(self.own.gflop / peak, self.own.gbyte / self.bandwidth) * 1e3

    def line(self) -> str:
        times = ", ".join(f"{o.system} {o.median:.3f}" for o in self.outcomes if o.turns)
        ratio = self.ratio()
        return f"{self.name}: {times} ms" + (f"; {ratio:.2f}×" if ratio else "")


def system_lines(threads: int) -> str:
    """What it ran on and with."""
    packages = []
    for name in ("nnc", *PEERS):
        try:
            packages.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return (
        f"{threads} threads of {os.cpu_count()} on {processor()}, Python "
        f"{platform.python_version()}; {', '.join(packages)}. Medians of interleaved rounds; "
        "least: the fastest single step. Ratio: the best peer's time divided by nnc's. GFLOP/s: "
        "the products that the equations state, needed or not; the "
        "peak: fused multiply-adds in registers, the best of what was seen. Floor: these products "
        "at the peak, or the values (of a training step old and new) at the bandwidth of a copy, "
        "whichever takes longer. Quiet turns "
        "are those in which others took less than a tenth of a core; if there are three, only "
        "they count."
    )


def processor() -> str:
    """The processor's name, as far as the system says."""
    place = Path("/proc/cpuinfo")
    if place.exists():
        for line in place.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def main_table(entries: list[Entry]) -> str:
    """One row for each workload."""
    head = (
        "workload",
        "nnc ms",
        "least",
        "best peer",
        "ms",
        "least",
        "ratio",
        "ratio of least",
        "GFLOP/s",
        "% of peak",
        "floor ms",
        "of it",
        "first step s, cold",
        "again",
        "peak MB",
        "quiet turns",
    )
    peak = max((e.peak for e in entries), default=0.0)  # the others were disturbed
    return markdown(head, [_row(e, peak) for e in entries]) + "\n\n" + all_systems(entries)


def _row(entry: Entry, peak: float) -> list[str]:
    own, peer = entry.own, entry.best()
    if not own.turns:
        return [entry.name, own.failure]
    row = [entry.name, number(own.median), number(own.least)]
    if peer is None:
        row += ["–"] * 5
    else:
        row += [peer.system, number(peer.median), number(peer.least)]
        row += [f"{entry.ratio():.2f}", f"{entry.ratio(least=True):.2f}"]
    row += [f"{entry.speed:.0f}", f"{100 * entry.speed / peak:.0f}"]
    floor = entry.floor(peak)
    row += [number(floor), f"{own.median / floor:.1f}×"]
    row += [f"{own.cold_s:.2f}", f"{own.first_step_s:.2f}", f"{own.peak_mb:.0f}"]
    return [*row, f"{len(own.quiet)} of {len(own.turns)}"]


def all_systems(entries: list[Entry]) -> str:
    """Every system's figures."""
    head = ("workload", "system", "ms", "least", "first step s", "peak MB", "")
    rows = [
        [
            entry.name,
            o.system,
            number(o.median),
            number(o.least),
            f"{o.first_step_s:.2f}",
            f"{o.peak_mb:.0f}",
            o.failure,
        ]
        for entry in entries
        for o in entry.outcomes
    ]
    return markdown(head, rows)


def growth_table(name: str, rows: list[tuple[int, list[Outcome]]]) -> str:
    """Milliseconds of every system as one size grows."""
    systems = [o.system for o in rows[0][1]]
    lines = [
        [str(value), *(number(o.median) if not o.failure else "–" for o in outcomes)]
        for value, outcomes in rows
    ]
    return markdown((name, *systems), lines)


def markdown(head: tuple[str, ...], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def number(value: float) -> str:
    """Three digits that count."""
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"


# --- files ----------------------------------------------------------------------------------------


def write(folder: Path, page: str, entries: list[Entry]) -> None:
    """`table.md`, `figures.json` and, where there is matplotlib, `plot.svg`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "table.md").write_text(page)
    figures = [{**asdict(e), "ratio": e.ratio(), "gflops": e.speed} for e in entries]
    (folder / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    if entries:
        plot(folder / "plot.svg", entries)


def plot(path: Path, entries: list[Entry]) -> None:
    """How many times longer than nnc each system takes, on a logarithmic axis."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    systems = list(dict.fromkeys(o.system for e in entries for o in e.outcomes))
    figure = Figure(figsize=(4 + 0.7 * len(entries), 4), layout="constrained")
    axes = figure.add_subplot()
    width = 0.8 / len(systems)
    for place, system in enumerate(systems):
        bars = [
            (n + width * place, o.median / e.own.median)
            for n, e in enumerate(entries)
            for o in e.outcomes
            if o.system == system and o.turns and not o.failure
        ]
        axes.bar([x for x, _ in bars], [y for _, y in bars], width, label=system)
    axes.axhline(1, color="black", linewidth=0.6)
    axes.set_xticks([n + 0.4 for n in range(len(entries))], [e.name for e in entries], rotation=30)
    axes.set_yscale("log", base=2)
    axes.set_ylabel("time, nnc = 1")
    axes.legend(fontsize="small", ncols=3)
    figure.savefig(path)
