"""The training loop.

In: a `Job`: compiled programs, examples, settings, a position to start from. Out: the job with
trained values, records and a run folder. `job.py` prepares it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from math import isfinite

import numpy as np

from .batch_inputs import Examples, epoch_order, next_batches, step_batches
from .bound_program import Refused
from .executor import Executor, evaluation_batches
from .integer_guard import refusal
from .interrupt import never
from .job import Job
from .metrics import Record
from .nonfinite_guard import NonfiniteGuard
from .progress import Listener
from .set_measures import Totals

INTERRUPTED = "interrupted"


def train(job: Job, listener: Listener, interrupted: Callable[[], bool]) -> str:
    """Train until a reason to stop, which is returned. UserError E0701 if a value is not finite.

    `interrupted` is polled after every launch of the device, also in evaluations; when it is true,
    a checkpoint is saved and training ends.
    """
    settings = job.settings
    job.compile_step()
    guard = NonfiniteGuard(job)
    while not (reason := reason_to_stop(job)):
        here = job.position
        # a resumed epoch has taken `seconds` already: the clock goes on from there
        began = time.perf_counter() - here.seconds

        # `began` is bound now, since the loop assigns it anew in every epoch
        def save(began: float = began) -> None:
            # never save values that are not finite: one could not resume from them
            guard.check()
            job.position.seconds = time.perf_counter() - began
            job.save_checkpoint()

        # drawn anew rather than stored: it depends on seed and epoch alone
        order = epoch_order(job.training.rows, settings.seed, here.epoch, settings.shuffle)
        while here.done < len(order) and not _is_last(job):
            # launches end at `due` (`next_stop`), so it is never stepped over
            if here.step == guard.due:
                guard.renew()
            run_steps(job, guard, order, listener)
            if interrupted():
                save()
                return INTERRUPTED
            if settings.checkpoint_steps and here.step % settings.checkpoint_steps == 0:
                save()
        # every epoch ends with good values, so a bad step is always of the current epoch
        guard.check()
        values = job.executor.measures["train"].values(here.totals)
        for name in ("validation", "test"):
            if name in job.parts:
                measured = evaluate(job.executor, job.parts[name], here.step, interrupted)
                if measured is None:  # the epoch is evaluated after resuming
                    save()
                    return INTERRUPTED
                values |= {f"{name}_{key}": value for key, value in measured.items()}
        record = Record(here.epoch, here.step, values, time.perf_counter() - began)
        job.finish_epoch(record)
        listener.epoch(record)
    return reason


def run_step_of_batches(
    job: Job, guard: NonfiniteGuard, order: np.ndarray, listener: Listener
) -> None:
    """Run the next training step of the epoch, whose gradients are those of several batches."""
    settings, here = job.settings, job.position
    measures, count = job.executor.measures["train"], -(-len(order) // settings.batch)
    here.step += 1
    means, seen = np.zeros(len(job.losses)), 0
    for left, rows in step_batches(order, settings.batch, here.done, settings.accumulate):
        program = job.executor.training(len(rows), settings.turn(here.step))
        here.done += len(rows)
        try:
            losses, parts = program.run(job.training, rows, here.step, left)
        except Refused:
            raise guard.stop() from None
        if not all(map(isfinite, losses)):
            guard.check(losses)
        measures.add(here.totals, parts, len(rows), len(order))
        seen += len(rows)
        means += (np.array(losses) - means) * (len(rows) / seen)
    listener.step(here.epoch, -(-here.done // settings.batch), count, means.tolist())


def run_steps(job: Job, guard: NonfiniteGuard, order: np.ndarray, listener: Listener) -> None:
    """Run the next training step of the epoch; or as many as the device takes in one launch, up to
    the next stop."""
    settings, here = job.settings, job.position
    if settings.accumulate > 1:
        run_step_of_batches(job, guard, order, listener)
        return
    # at the end of an epoch there may be fewer examples than a batch
    size = min(settings.batch, len(order) - here.done)
    program = job.executor.training(size, settings.turn(here.step + 1))
    # -(-a // b) is the quotient rounded up
    most, count = program.together(job.training), -(-len(order) // settings.batch)
    # a launch cannot be interrupted in the middle: what happens between steps bounds its length
    if most > 1:
        most = min(most, next_stop(job, guard) - here.step, settings.steps_alike(here.step + 1))
    rows = next_batches(order, size, here.done, most)
    numbers = range(here.step + 1, here.step + 1 + len(rows))
    measures = job.executor.measures["train"]
    try:
        for losses, parts in program.run_many(job.training, rows, numbers):
            here.step += 1
            # the position is of the step just read, so that the guard repeats up to exactly this
            here.done += size
            if not all(map(isfinite, losses)):
                guard.check(losses)
            measures.add(here.totals, parts, size, len(order))
            listener.step(here.epoch, -(-here.done // settings.batch), count, losses)
    except Refused:
        here.step, here.done = here.step + 1, here.done + size
        raise guard.stop() from None


def next_stop(job: Job, guard: NonfiniteGuard) -> int:
    """The step after which values are checked, a checkpoint is saved, or training ends."""
    # each of these is a number of a step after which the host has to look at the values
    settings, here = job.settings, job.position
    found = guard.due
    if settings.steps is not None:
        found = min(found, settings.steps)
    if settings.checkpoint_steps:
        # the next multiple of the interval above the current step
        found = min(found, (here.step // settings.checkpoint_steps + 1) * settings.checkpoint_steps)
    return found


def measure(executor: Executor, examples: Examples, step: int) -> dict[str, float]:
    """The loss and the metrics of all examples, by name, after a step (0: before the first)."""
    found = evaluate(executor, examples, step, never)
    assert found is not None
    return found


def evaluate(
    executor: Executor, examples: Examples, step: int, interrupted: Callable[[], bool]
) -> dict[str, float] | None:
    """As `measure`; None if it was interrupted."""
    totals, measures = Totals(), executor.measures["evaluate"]
    for size, begin, end in evaluation_batches(len(examples)):
        rows = examples.rows[:end]
        with executor.evaluation(size) as program:
            while begin < end:
                batches = next_batches(rows, size, begin, program.together(examples))
                # evaluation is no step of training; programs count steps from 1, also before the
                # first
                steps = [max(step, 1)] * len(batches)
                try:
                    for _, parts in program.run_many(examples, batches, steps):
                        measures.add(totals, parts, size, len(examples))
                except Refused as refused:
                    raise refusal(program, refused, examples.split, executor.seed) from None
                # `batches` is [runs, size]: its size counts examples
                begin += batches.size
                if interrupted():
                    return None
    return measures.values(totals)


def _is_last(job: Job) -> bool:
    """Whether the epoch ends after this step, however many examples are left."""
    steps = job.settings.steps
    return bool(job.stop) or (steps is not None and job.position.step >= steps)


def reason_to_stop(job: Job) -> str:
    """Why training ends after the last record; empty if it does not."""
    settings, here = job.settings, job.position
    # conditions are about complete epochs
    if here.done:
        return ""  # in the middle of an epoch
    if job.stop:
        return job.stop
    if settings.steps is not None and here.step >= settings.steps:
        return f"{settings.steps} step{'s' * (settings.steps != 1)} done"
    if settings.epochs is not None and here.epoch > settings.epochs:
        return f"{settings.epochs} epoch{'s' * (settings.epochs != 1)} done"
    if job.records:
        for condition in settings.until:
            if condition.holds(job.measured(job.records[-1])):
                return f"`until {condition.text}` holds"
    if settings.patience is not None and here.stale >= settings.patience:
        return (
            f"{job.monitor.name} has not improved on epoch {here.best_epoch} for "
            f"{here.stale} epoch{'s' * (here.stale != 1)}"
        )
    return ""
