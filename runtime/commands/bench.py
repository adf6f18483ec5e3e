"""`nnc bench`: the time of a training step.

In: the command line. Out: figures on stdout. The measuring is done in `bench.py` of the runtime.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import click

from ..device.cpu import host
from ..inspect.bench import StepFigures, measure
from ..thread_count import default_threads
from . import options as o


def bench(program, steps, device_name, threads, as_json) -> None:
    """What `nnc bench` does."""
    started = click.get_current_context().obj  # when the process began to do something
    project, setup = program.project, program.setup
    device = o.device(device_name, threads)
    figures = measure(setup, device, steps, project.settings.seed, started)
    if as_json:
        about = {
            "model": project.name,
            "file": str(program.file),
            "batch": setup.batch,
            "device": device_name,
            "threads": 1 if figures.gpu else default_threads(threads),
            "steps": steps,
            "processor": host.processor(),
            "target": host.target().name,
        }
        click.echo(json.dumps({**about, **_plain(figures)}))
        return
    where = "on the GPU" if figures.gpu else f"{default_threads(threads)} threads"
    click.echo(
        f"{project.name}, batch {setup.batch}, {where}, {steps} steps\n"
        f"median step  {figures.median_ms:.3f} ms\n"
        f"fastest      {figures.min_ms:.3f} ms\n"
        f"speed        {figures.gflops:.1f} GFLOP/s\n"
        f"first step   {figures.first_step_s:.2f} s after the start\n"
        f"peak memory  {figures.peak_mb:.0f} MB"
    )
    if gpu := figures.gpu:
        click.echo(
            f"launches     {gpu.launches} kernels in a step\n"
            f"at a time    {gpu.together} step{'s' * (gpu.together != 1)} in one graph: {gpu.why}\n"
            f"arena        {gpu.arena_mb:.1f} MB on the GPU\n"
            f"compiled in  {gpu.compile_s:.2f} s"
        )


def _plain(figures: StepFigures) -> dict[str, Any]:
    """Numbers rounded; those of a GPU only where there is one."""
    # The figures of a GPU join the others on one level; nested they would be a second form.
    every = {**asdict(figures), **(asdict(figures.gpu) if figures.gpu else {})}
    del every["gpu"]
    return {name: round(v, 4) if isinstance(v, float) else v for name, v in every.items()}
