"""The training loop.

In: a `Job`: compiled programs, examples, settings, a position to start from. Out: the job with
trained values, records and a run folder. `job.py` prepares it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from math import isfinite

import numpy as np

from ..streams import OutputError
from .batch_inputs import Examples, next_batches, step_batches
from .bound_program import Refused
from .executor import Executor, evaluation_batches
from .integer_guard import refusal
from .interrupt import never
from .intervals import Intervals
from .job import Job
from .metrics import EPOCH, LOG, VALIDATION, Record
from .nonfinite_guard import NonfiniteGuard
from .progress import Listener
from .set_measures import Totals, Value

INTERRUPTED = "interrupted"
Clock = Callable[[], float]  # seconds since whenever


def train(
    job: Job,
    listener: Listener,
    interrupted: Callable[[], bool],
    clock: Clock = time.monotonic,
) -> str:
    """Train until a reason to stop, which is returned. UserError E0701 if a value is not finite.

    `interrupted` is polled after every launch of the device, also in evaluations; when it is true,
    a checkpoint is saved and training ends. The `clock` decides when checkpoints are written, and
    nothing else.
    """
    job.compile_programs()
    run = _Run(job, listener, interrupted, clock)
    try:
        return run.to_the_end()
    except OutputError:
        # what follows the last checkpoint was told by no line yet
        run.save()
        raise


class _Run:
    """A job on its way, which does one thing after the other: steps, or a record of them."""

    def __init__(self, job: Job, listener: Listener, interrupted: Callable[[], bool], clock: Clock):
        self.job, self.listener = job, listener
        self.interrupted, self.clock = interrupted, clock
        self.guard = NonfiniteGuard(job)
        self.intervals = Intervals(job.settings, job.steps_per_epoch)
        self.windowed = self.intervals.has_records
        self.saved = clock()  # when the last checkpoint was written
        self.epoch = 0  # that is begun
        self.began = 0.0  # by the clock
        self.order = np.empty(0, np.int64)

    def to_the_end(self) -> str:
        """The reason to stop."""
        here = self.job.position
        while not (reason := reason_to_stop(self.job)):
            if self.epoch != here.epoch:
                self._begin_epoch()
            kind = self._due()
            if kind is None:
                self._take_steps()
                complete = not self.interrupted()
            else:
                complete = self._measure(kind)
            if not complete:
                self.save()
                return INTERRUPTED
            if kind is None and self._saves():
                self.save()
        return reason

    def save(self) -> None:
        """Write a checkpoint."""
        # never save values that are not finite: one could not resume from them
        self.guard.check()
        self.job.position.seconds = self._seconds()
        self.job.save_checkpoint()
        self.saved = self.clock()

    def _saves(self) -> bool:
        """Whether a checkpoint is due after the last step."""
        seconds = self.intervals.checkpoint_seconds
        by_time = seconds is not None and self.clock() - self.saved >= seconds
        return by_time or self.intervals.saves(self.job.position.step)

    def _seconds(self) -> float:
        """What the epoch has taken so far."""
        # in an epoch that is over, nothing of the next one
        here = self.job.position
        return self.clock() - self.began if here.epoch == self.epoch else 0.0

    def _begin_epoch(self) -> None:
        here = self.job.position
        self.epoch = here.epoch
        # a resumed epoch has taken `seconds` already: the clock goes on from there
        self.began = self.clock() - here.seconds
        # drawn anew rather than stored: it depends on seed and epoch alone
        self.order = self.job.order(here.epoch)

    # --- records ------------------------------------------------------------------------------

    def _due(self) -> str | None:
        """The kind of the record that is to be made before the next step; None if there is none."""
        here, steps = self.job.position, self.job.settings.steps
        if here.done >= len(self.order) or (steps is not None and here.step >= steps):
            return EPOCH
        if (self.job.stop or self.job.spent) and here.done:  # the epoch ends here
            return EPOCH
        # what was told is not in the window any more, also after resuming
        return self.intervals.record(here.step) if here.window.count else None

    def _measure(self, kind: str) -> bool:
        """Make a record; false if that was interrupted. It is made after resuming then."""
        job, here = self.job, self.job.position
        # What is compared and saved are good values, so a bad step is always of the current epoch.
        if kind != LOG:
            self.guard.check()
        totals = here.totals if kind == EPOCH else here.window
        values = job.executor.measures["train"].values(totals)
        for name in ("validation", "test"):
            if name in job.parts and kind != LOG:
                measured = evaluate(
                    job.executor,
                    job.parts[name],
                    here.step,
                    self.interrupted,
                    partial(self.listener.measuring, name),
                )
                if measured is None:
                    return False
                values |= {f"{name}_{key}": value for key, value in measured.items()}
        if job.private:
            values["epsilon"] = job.private.epsilon(here.step)
        record = Record(here.epoch, here.step, values, self._seconds(), kind)
        job.note(record)
        if kind != LOG:
            self.saved = self.clock()
        self.listener.record(record)
        return True

    # --- steps --------------------------------------------------------------------------------

    def _take_steps(self) -> None:
        """Run the next training step of the epoch; or as many as the device takes in one launch, up
        to the next stop."""
        # launches end at `due` (`_next_stop`), so it is never stepped over
        if self.job.position.step == self.guard.due:
            self.guard.renew()
        settings, here = self.job.settings, self.job.position
        found = [self._run_step_of_batches()] if settings.accumulate > 1 else self._run_steps()
        # told after the launch: the position and the values are of one step again
        for number, losses in enumerate(found, here.step - len(found) + 1):
            self.listener.step(here.epoch, number, losses)

    def _add(self, parts: Sequence[Value], examples: int) -> None:
        """Add what a batch has measured."""
        here, measures = self.job.position, self.job.executor.measures["train"]
        measures.add(here.totals, parts, examples, len(self.order))
        if self.windowed:
            measures.add(here.window, parts, examples, len(self.order))

    def _run_step_of_batches(self) -> Sequence[float]:
        """A step whose gradients are those of several batches; its losses."""
        settings, here = self.job.settings, self.job.position
        here.step += 1
        means, seen = np.zeros(len(self.job.losses)), 0
        batches = step_batches(self.order, settings.batch, here.done, settings.accumulate)
        for left, rows in batches:
            program = self.job.executor.training(len(rows), settings.turn(here.step))
            if self.job.private:
                self.job.private.draw(program, here.epoch, here.done, here.step, left)
            here.done += len(rows)
            self.job.training.expect(self.order, settings.batch, here.done)
            try:
                losses, parts = program.run(self.job.training, rows, here.step, left)
            except Refused:
                raise self.guard.stop() from None
            if not all(map(isfinite, losses)):
                self.guard.check(losses)
            self._add(parts, len(rows))
            seen += len(rows)
            means += (np.array(losses) - means) * (len(rows) / seen)
        found: list[float] = means.tolist()
        return found

    def _run_steps(self) -> list[Sequence[float]]:
        """One step, or several in one launch; the losses of each."""
        job, settings, here = self.job, self.job.settings, self.job.position
        # at the end of an epoch there may be fewer examples than a batch
        size = min(settings.batch, len(self.order) - here.done)
        program = job.executor.training(size, settings.turn(here.step + 1))
        most = program.together(job.training)
        # a launch cannot be interrupted in the middle: what happens between steps bounds its length
        if most > 1:
            most = min(most, self._next_stop() - here.step, settings.steps_alike(here.step + 1))
        rows = next_batches(self.order, size, here.done, most)
        numbers = range(here.step + 1, here.step + 1 + len(rows))
        job.training.expect(self.order, settings.batch, here.done + rows.size)
        if job.private:  # one step at a time
            job.private.draw(program, here.epoch, here.done, here.step + 1, 0)
        found: list[Sequence[float]] = []
        try:
            for losses, parts in program.run_many(job.training, rows, numbers):
                here.step += 1
                # the position is of the step just read, so that the guard repeats up to this one
                here.done += size
                if not all(map(isfinite, losses)):
                    self.guard.check(losses)
                self._add(parts, size)
                found.append(losses)
        except Refused:
            here.step, here.done = here.step + 1, here.done + size
            raise self.guard.stop() from None
        return found

    def _next_stop(self) -> int:
        """The step after which values are looked at or measured, or training ends."""
        settings, here = self.job.settings, self.job.position
        stops = (self.guard.due, settings.steps, self.intervals.next(here.step))
        return min(stop for stop in stops if stop is not None)


def measure(executor: Executor, examples: Examples, step: int) -> dict[str, float]:
    """The loss and the metrics of all examples, by name, after a step (0: before the first)."""
    found = evaluate(executor, examples, step, never)
    assert found is not None
    return found


def evaluate(
    executor: Executor,
    examples: Examples,
    step: int,
    interrupted: Callable[[], bool],
    tell: Callable[[int, int], None] = lambda done, examples: None,
) -> dict[str, float] | None:
    """As `measure`; None if it was interrupted. `tell` is called with how many examples are done,
    and how many there are."""
    totals, measures = Totals(), executor.measures["evaluate"]
    for size, begin, end in evaluation_batches(len(examples)):
        rows = examples.rows[:end]
        with executor.evaluation(size) as program:
            while begin < end:
                batches = next_batches(rows, size, begin, program.together(examples))
                examples.expect(rows, size, begin + batches.size)
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
                tell(begin, len(examples))
                if interrupted():
                    return None
    return measures.values(totals)


def reason_to_stop(job: Job) -> str:
    """Why training ends after the last record; empty if it does not."""
    settings, here = job.settings, job.position
    last = job.records[-1] if job.records else None
    if here.done:
        # In the middle of an epoch conditions are about a validation, if that was the last thing.
        if last is None or last.kind != VALIDATION or last.step != here.step:
            return ""
    elif job.stop or job.spent:
        return job.stop or job.spent
    elif settings.steps is not None and here.step >= settings.steps:
        return f"{settings.steps} step{'s' * (settings.steps != 1)} done"
    elif settings.epochs is not None and here.epoch > settings.epochs:
        return f"{settings.epochs} epoch{'s' * (settings.epochs != 1)} done"
    if last is not None:
        for condition in settings.until:
            if condition.holds(job.measured(last)):
                return f"`until {condition.text}` holds"
    if settings.patience is not None and here.stale >= settings.patience:
        best, unit = f"epoch {here.best_epoch}", "epoch"
        if settings.validate_every is not None:
            best, unit = f"step {here.best_step}", "validation"
        return (
            f"{job.monitor.name} has not improved on {best} for "
            f"{here.stale} {unit}{'s' * (here.stale != 1)}"
        )
    return ""
