"""The training loop.

In: a `Job`: compiled programs, examples, settings, a place to begin. Out: the job's values trained,
its records, its run folder written. `job.py` prepares one; nothing here parses or compiles.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import islice
from math import isfinite

import numpy as np

from .executor import Executor, evaluation_batch
from .feeding import Examples, batches, epoch_order
from .guard import Guard
from .interrupt import never
from .job import Job
from .metrics import Means, Record
from .progress import Listener

INTERRUPTED = "interrupted"


def train(job: Job, listener: Listener, interrupted: Callable[[], bool]) -> str:
    """Train until the job says stop; returns why. UserError E0701 if a value is not finite.

    `interrupted` is asked after every step, also of an evaluation; when it says yes, the place is
    saved and training ends.
    """
    settings = job.settings
    guard = Guard(job)
    while not (reason := reason_to_stop(job)):
        here = job.position
        began = time.perf_counter() - here.seconds

        def save(began: float = began) -> None:
            guard.check()
            job.position.seconds = time.perf_counter() - began
            job.save_place()

        order = epoch_order(job.training.rows, settings.seed, here.epoch, settings.shuffle)
        count = -(-len(order) // settings.batch)
        left = None if settings.steps is None else settings.steps - here.step
        for rows in islice(batches(order, settings.batch, here.done), left):
            if here.step == guard.due:
                guard.renew()
            loss = take_step(job, guard, rows)
            listener.step(here.epoch, -(-here.done // settings.batch), count, loss)
            if interrupted():
                save()
                return INTERRUPTED
            if settings.checkpoint_steps and here.step % settings.checkpoint_steps == 0:
                save()
        guard.check()
        values = here.means.means()
        for name in ("validation", "test"):
            if name in job.parts:
                measured = evaluate(job.executor, job.parts[name], here.step, interrupted)
                if measured is None:  # the epoch's steps are done; it is measured after resuming
                    save()
                    return INTERRUPTED
                values |= measured.means(f"{name}_")
        record = Record(here.epoch, here.step, values, time.perf_counter() - began)
        job.finish_epoch(record)
        listener.epoch(record)
    return reason


def take_step(job: Job, guard: Guard, rows: np.ndarray) -> float:
    """One training step on these rows; the loss before it."""
    here = job.position
    program = job.executor.training(len(rows))
    values = program.run(job.training, rows, here.step + 1)
    loss = values["loss"]
    here.step += 1
    here.done += len(rows)
    if not isfinite(loss):
        guard.check(loss)
    here.means.add(values, len(rows))
    return loss


def measure(executor: Executor, examples: Examples, step: int) -> Means:
    """The loss and the metrics over all examples, every one counted once."""
    means = evaluate(executor, examples, step, never)
    assert means is not None
    return means


def evaluate(
    executor: Executor, examples: Examples, step: int, interrupted: Callable[[], bool]
) -> Means | None:
    """The same; None if it was interrupted."""
    means = Means()
    size = evaluation_batch(len(examples))
    program = None
    for rows in batches(examples.rows, size):
        if program is None or len(rows) != size:
            program = executor.evaluation(len(rows))
        means.add(program.run(examples, rows, max(step, 1)), len(rows))
        if interrupted():
            return None
    return means


def reason_to_stop(job: Job) -> str:
    """Why there is nothing left to do after the last record; empty if there is."""
    settings, here = job.settings, job.position
    if here.done:
        return ""  # an epoch is under way
    if settings.steps is not None and here.step >= settings.steps:
        return f"{settings.steps} step{'s' * (settings.steps != 1)} done"
    if settings.epochs is not None and here.epoch > settings.epochs:
        return f"{settings.epochs} epoch{'s' * (settings.epochs != 1)} done"
    if job.records:
        for condition in settings.until:
            if condition.holds(job.measured(job.records[-1])):
                return f"`until {condition.text}` holds"
    if settings.patience is not None and here.stale >= settings.patience:
        return (f"{job.monitor.name} has not improved on epoch {here.best_epoch} for "
                f"{here.stale} epoch{'s' * (here.stale != 1)}")  # fmt: skip
    return ""
