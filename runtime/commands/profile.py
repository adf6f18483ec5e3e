"""`nnc profile`: where the time of a training step goes, in the user's own source.

In: the command line. Out: a table or JSON on stdout. The measuring is done in `profiling.py`, on a
GPU in `gpu_profiling.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import click

from ...compiler.ir.printer import origin
from ...compiler.programs import training_step
from ..inspect.profile_on import profile_on
from ..inspect.profiling import STAGES, KernelTime, LineTime, Profile
from . import options as o
from .tables import Row, TableColumn, print_table

SHOWN = 0.01  # of the step: a line of the library that takes less has no row of its own
TIMES = (("forward", 8), ("backward", 8), ("update", 8), ("share", 6))  # columns, their widths
ON_CPU = (("GFLOP/s", 7), ("peak", 5), ("MB", 8))
ON_GPU = (("GFLOP/s", 8), ("GB/s", 6), ("peak", 5), ("MB", 8))
USE = (("regs", 4), ("shared", 6), ("fits", 5))


def profile(program, steps, kernels, sort, device_name, threads, as_json) -> None:
    """What `nnc profile` does."""
    project, setup = program.project, program.setup
    if o.verifying():
        o.check_passes(training_step(setup)[0])
    found = profile_on(device_name, project, setup, threads, steps)
    if as_json:
        click.echo(json.dumps(_plain(found)))
        return
    by_time = sort == "time"
    subject = TableColumn("kernel" if kernels else "source", 0, right=False)
    # Registers and shared memory belong to a kernel; a line of the source may be in several.
    numbers = (*TIMES, *(ON_GPU if found.gpu else ON_CPU), *(USE if found.gpu and kernels else ()))
    columns = (TableColumn("line", 6), subject, *(TableColumn(*number) for number in numbers))
    print_table(columns, (_kernel_rows if kernels else _line_rows)(found, by_time))
    for text in _gpu_summary(found) if found.gpu else _summary(found):
        click.echo(text)


def _line_rows(found: Profile, by_time: bool) -> Iterable[Row]:
    file = ""
    for line in _sorted(found.lines(), by_time):
        name = line.span.source.name
        # A heading where the file changes; sorted by time, a file can have several.
        if name != file:
            yield ("", name), "bold"
            file = name
        place = f"{line.span.line}:{line.span.column}"
        yield (place, line.text, *_numbers(line.ms, line.gflop, line.mb, found)), ""
        for inner in _sorted([line.within[key] for key in sorted(line.within)], by_time):
            # A single line of the library would only repeat the figures above it.
            if inner.total >= SHOWN * found.kernel_ms and len(line.within) > 1:
                place = inner.span.source.name.rpartition("/")[2]
                text = f"  {place}:{inner.span.line}  {inner.text}"
                yield ("", text, *_numbers(inner.ms, inner.gflop, inner.mb, found)), ""


def _kernel_rows(found: Profile, by_time: bool) -> Iterable[Row]:
    kernels = found.kernels
    for timed in sorted(kernels, key=lambda k: -k.ms) if by_time else kernels:
        span = timed.span
        # Fusion joins equations of different stages, so a kernel's time is shared out among them.
        ms = dict.fromkeys(STAGES, 0.0)
        for share in timed.shares:
            ms[share.stage] += share.ms
        runs = f" × {timed.runs}" if timed.runs > 1 else ""
        place = f"{span.user_span.line}:{span.user_span.column}" if span else ""
        numbers = _numbers(ms, timed.gflop, timed.mb, found)
        if use := timed.use:
            numbers += [str(use.registers), str(use.shared), f"{use.occupancy:.0%}"]
        yield (place, timed.name + runs, *numbers), ""


def _sorted(lines: list[LineTime], by_time: bool) -> list[LineTime]:
    return sorted(lines, key=lambda line: -line.total) if by_time else lines


def _numbers(ms: dict[str, float], gflop: float, mb: float, found: Profile) -> list[str]:
    total = sum(ms.values())
    # Per millisecond → per second: 10^9 operations and 10^9 bytes.
    speed, rate = (x / total * 1e3 if total else 0.0 for x in (gflop, mb / 1e3))
    times = [
        *(f"{ms[stage]:.3f}" if ms[stage] else "" for stage in STAGES),
        f"{total / found.kernel_ms:.1%}",
        f"{speed:.1f}" if gflop else "",
    ]
    # `peak` is the share of the memory's bandwidth on a GPU, and that of the peak GFLOP/s on a CPU.
    if found.gpu:
        moved = [f"{rate:.0f}", f"{rate / found.bandwidth:.0%}"] if mb else ["", ""]
        return [*times, *moved, f"{mb:.2f}"]
    return [*times, f"{speed / found.peak:.0%}" if gflop else "", f"{mb:.2f}"]


def _summary(found: Profile) -> Iterable[str]:
    parts = ", ".join(f"{stage} {found.stage_ms(stage):.3f}" for stage in STAGES)
    # 10^9 operations in a millisecond are 1000 GFLOP/s.
    speed = found.gflop / found.kernel_ms * 1e3
    threads = f"{found.threads} thread{'s' * (found.threads != 1)}"
    yield f"{found.name}, batch {found.batch}, {threads}, the quieter half of {found.steps} steps"
    yield f"kernels      {found.kernel_ms:.3f} ms: {parts}"
    yield (
        f"whole step   {found.step_ms:.3f} ms without clocks, {found.clocked_ms:.3f} ms with "
        f"them, of which the kernels are {found.kernel_ms / found.clocked_ms:.1%}"
    )
    yield (
        f"products     {speed:.1f} GFLOP/s, {speed / found.peak:.0%} of this computer's "
        f"{found.peak:.0f}"
    )


def _gpu_summary(found: Profile) -> Iterable[str]:
    parts = ", ".join(f"{stage} {found.stage_ms(stage):.3f}" for stage in STAGES)
    launches = sum(timed.runs for timed in found.kernels)
    # MB per millisecond are GB per second.
    speed, rate = found.gflop / found.kernel_ms * 1e3, found.mb / found.kernel_ms
    yield f"{found.name}, batch {found.batch}, {found.gpu}, the quieter half of {found.steps} steps"
    yield f"kernels      {found.kernel_ms:.3f} ms in {launches} launches: {parts}"
    yield f"whole step   {found.step_ms:.3f} ms as one graph, with its inputs and outputs"
    yield (
        f"all in all   {speed:.1f} GFLOP/s, and {rate:.0f} GB/s, {rate / found.bandwidth:.0%} "
        f"of the {found.bandwidth:.0f} of its memory"
    )


# --- JSON -----------------------------------------------------------------------------------------


def _plain(found: Profile) -> dict[str, Any]:
    computer = (
        {"gpu": found.gpu, "bandwidth": _round(found.bandwidth)}
        if found.gpu
        else {"threads": found.threads, "peak_gflops": _round(found.peak)}
    )
    return {
        "model": found.name,
        "batch": found.batch,
        **computer,
        "steps": found.steps,
        "step_ms": _round(found.step_ms),
        "clocked_step_ms": _round(found.clocked_ms),
        "kernels_ms": _round(found.kernel_ms),
        "gflop": _round(found.gflop),
        "stages_ms": {stage: _round(found.stage_ms(stage)) for stage in STAGES},
        "lines": [_plain_line(line, found) for line in found.lines()],
        "kernels": [_plain_kernel(timed, found) for timed in found.kernels],
    }


def _plain_line(line: LineTime, found: Profile) -> dict[str, Any]:
    within = [_plain_line(line.within[key], found) for key in sorted(line.within)]
    return {
        "file": line.span.source.name,
        "line": line.span.line,
        "column": line.span.column,
        "text": line.text,
        **{f"{stage}_ms": _round(line.ms[stage]) for stage in STAGES},
        **_plain_work(line.total, line.gflop, line.mb, found),
        **({"library": within} if within else {}),
    }


def _plain_kernel(timed: KernelTime, found: Profile) -> dict[str, Any]:
    span = timed.span
    return {
        "kernel": timed.name,
        "place": origin(span) if span else "",
        "stage": timed.stage,
        "runs": timed.runs,
        "computes": [share.equation.target for share in timed.shares],
        **_plain_work(timed.ms, timed.gflop, timed.mb, found),
        **(asdict(timed.use) if timed.use else {}),
    }


def _plain_work(ms: float, gflop: float, mb: float, found: Profile) -> dict[str, float]:
    # As in `_numbers`, and rounded only when it is written.
    speed, rate = (x / ms * 1e3 if ms else 0.0 for x in (gflop, mb / 1e3))
    share = (
        {"gb_per_s": _round(rate), "of_bandwidth": _round(rate / found.bandwidth)}
        if found.gpu
        else {"of_peak": _round(speed / found.peak)}
    )
    return {"ms": _round(ms), "gflops": _round(speed), **share, "bytes": round(mb * 1e6)}


def _round(value: float) -> float:
    return round(value, 6)
