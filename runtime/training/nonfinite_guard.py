"""A step whose loss, gradients or new values are not finite does not change the weights.

UserError E0701 restores the job's values as they were before that step. The loss is checked after
every step, the values every `INTERVAL` steps and before they are evaluated or written: a gradient
that is not finite remains visible in the values (`compiler/elaboration/train_block.py`). A copy of
the values is taken as often (`values_copy.py`), and steps repeat to the bit: taking the steps since
the copy once more finds the first bad one, and taking those before it again the state before it.
No other copy is needed. All that costs less than a step in 500.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import isfinite, isnan
from typing import TYPE_CHECKING

import numpy as np

from ...compiler.ir.dtypes import is_float
from ...compiler.ir.equation import System
from ...compiler.reference.evaluator import evaluate
from ...compiler.reference.nonfinite_trace import Bad, first_bad, trace_nonfinite
from ...dsl.diagnostics.diagnostic import Diagnostic, Note, UserError, fail
from ...dsl.records import record
from ...dsl.syntax import ast as s
from ...dsl.syntax.source import Span
from .batch_inputs import fill_inputs, step_batches
from .bound_program import BoundProgram, Refused
from .integer_guard import explained
from .snapshot import SNAPSHOT_NAME, Snapshot, write_snapshot
from .values_copy import ValuesCopy

if TYPE_CHECKING:
    from .job import Job

Found = tuple[str, tuple[int, ...], float]  # a tensor, an index, the value there

INTERVAL = 500  # steps between two copies: each reads the values once, as every step does anyhow


@record
class _TakenStep:
    """A step's number, its epoch, the number of examples before it in the epoch, and the rows of
    its batches, each with how many are left after it."""

    number: int
    epoch: int
    done: int
    batches: Sequence[tuple[int, np.ndarray]]


class NonfiniteGuard:
    """A copy of the values some steps ago. UserError E0701 if initial values are not finite."""

    def __init__(self, job: Job):
        self.job, self.executor = job, job.executor
        system = job.executor.system
        watched = [t for t in system.tensors.values() if t.name in self.executor.values]
        # A parameter that begins with NaN would make every step bad: that is a mistake of the
        # program.
        for tensor in watched:
            index = first_bad(self.executor.values[tensor.name])
            if index is not None and tensor.kind == "param":
                value = float(self.executor.values[tensor.name][index])
                raise fail(
                    "E0701", f"`{tensor.name}` begins with {value:g} at {list(index)}", tensor.span
                )
        # an initial state may be infinite, as a running minimum is
        self.names = [
            t.name
            for t in watched
            if first_bad(self.executor.values[t.name]) is None and is_float(t.dtype)
        ]
        folder = job.folder.path if job.folder else None
        self._copy = ValuesCopy(self.executor.values, folder)
        self._mark()

    def _mark(self) -> None:
        """Record that the copy is of the current position."""
        here = self.job.position
        self._step, self._epoch, self._done = here.step, here.epoch, here.done
        self.due = here.step + INTERVAL  # the step at which the copy is to be renewed

    def renew(self) -> None:
        """Check the values, then copy them."""
        # first check, then copy: the copy must be of values known to be good
        self.check()
        self._copy.take(self.executor.values)
        self._mark()

    def _steps_since_copy(self) -> Iterator[_TakenStep]:
        """The steps since the copy, in order."""
        # The order of an epoch depends on seed and epoch alone, so the rows need not be remembered.
        settings, number, done = self.job.settings, self._step, self._done
        for epoch in range(self._epoch, self.job.position.epoch + 1):
            order = self.job.order(epoch)
            # the first epoch starts where the copy was taken, later ones at 0
            while done < len(order):
                if number == self.job.position.step:
                    return
                number += 1
                own = [*step_batches(order, settings.batch, done, settings.accumulate)]
                yield _TakenStep(number, epoch, done, own)
                done += sum(len(rows) for _, rows in own)
            done = 0

    def check(self, losses: Iterable[float] = ()) -> None:
        """Raise E0701 if one of the last losses or any value is not finite."""
        if not all(map(isfinite, losses)) or self._bad_value() is not None:
            raise self.stop()

    def _bad_value(self) -> tuple[str, tuple[int, ...]] | None:
        for name in self.names:
            index = first_bad(self.executor.values[name])
            if index is not None:
                return name, index
        return None

    def stop(self) -> UserError:
        """Restore the copy and repeat the steps up to the first bad one, which is undone: E0701,
        or E0730 if it was refused for its integers."""
        # Loss and values are deterministic: the same steps from the copy go bad at the same one.
        steps, copied = list(self._steps_since_copy()), 0
        self._restore()
        for number, step in enumerate(steps):
            # It is most often one of the last two: then no more than one is to be taken again.
            if number == len(steps) - 2:
                self._copy.take(self.executor.values)
                copied = number
            for batch in step.batches:
                found = self._taken_again(step, batch)
                if found:
                    return self._undone(steps[copied:number], step, batch, found)
        raise AssertionError("the steps since the copy did not repeat to the bit")

    def _taken_again(
        self, step: _TakenStep, batch: tuple[int, np.ndarray]
    ) -> Refused | list[Found]:
        """What is wrong after a batch of a step, the losses first; nothing if it is a good one."""
        left, rows = batch
        bound = self._program(step, rows)
        self._draw(bound, step, left)
        try:
            losses, _ = bound.run(self.job.training, rows, step.number, left)
        except Refused as refused:
            return refused
        bad = self._bad_value()
        # a loss comes first: it is what a user knows, and it goes bad before the values do
        named = zip(bound.losses, losses, strict=True)
        found: list[Found] = [(name, (), loss) for name, loss in named if not isfinite(loss)]
        if bad is not None:
            found.append((*bad, float(self.executor.values[bad[0]][bad[1]])))
        return found

    def _draw(self, bound: BoundProgram, step: _TakenStep, left: int) -> None:
        """Have a run of private training draw what it drew."""
        if self.job.private:
            before = sum(len(rows) for after, rows in step.batches if after > left)
            done = step.done + before
            self.job.private.draw(bound, step.epoch, done, step.number, left)

    def _program(self, step: _TakenStep, rows: np.ndarray) -> BoundProgram:
        return self.executor.training(len(rows), self.job.settings.turn(step.number))

    def _take_again(self, before: list[_TakenStep], step: _TakenStep, left: int) -> None:
        """From the copy on the steps before a bad one, which were good, and those of its batches
        with more than so many left after them."""
        self._restore()
        good = [(one, batch) for one in before for batch in one.batches]
        for one, batch in [*good, *((step, batch) for batch in step.batches if batch[0] > left)]:
            assert not self._taken_again(one, batch)

    def _undone(
        self,
        before: list[_TakenStep],
        step: _TakenStep,
        batch: tuple[int, np.ndarray],
        found: Refused | list[Found],
    ) -> UserError:
        """Go back to the state before the step, and say what was wrong with a batch of it."""
        # A step works in place: the steps before it once more take no memory for another copy.
        left, rows = batch
        self._take_again(before, step, left)
        # The position moves back too, so that what is saved now resumes before the step.
        self.job.position.step, self.job.position.done = step.number - 1, step.done
        error = self._explained(step, left, rows, found)
        # What was explained is the state before the batch.
        if batch is not step.batches[0]:
            self._take_again(before, step, len(step.batches))
        return error

    def _explained(
        self, step: _TakenStep, left: int, rows: np.ndarray, found: Refused | list[Found]
    ) -> UserError:
        """What was wrong with a batch, from the state before it."""
        bound, split = self._program(step, rows), self.job.training.split
        if isinstance(found, Refused):
            return explained(
                bound.system,
                self.executor.values,
                found,
                split,
                self.executor.seed,
                f"in step {step.number} (epoch {step.epoch}), ",
                "the weights are those before the step",
            )
        from ...compiler.pipeline import derive  # not needed where the code was kept

        fill_inputs(bound.fields, split, rows)
        self._draw(bound, step, left)
        inputs = {**dict(bound.fields), **bound.drawn}
        snapshot = Snapshot(
            self.executor.values,
            {name: array.copy() for name, array in inputs.items()},
            step.number,
            self.executor.seed,
            step.epoch,
            tuple(map(int, rows)),
            found[0][0],
            found[0][1],
            f"{found[0][2]:g}",
            left,
        )
        return self._error(derive(bound.system), snapshot, found[0])

    def _restore(self) -> None:
        """Back to the values of the copy."""
        self._copy.restore(self.executor.values)

    def _error(self, system: System, snapshot: Snapshot, found: Found) -> UserError:
        tensor, value = found[0], found[2]
        # in Python alone (`folder` None) there is no place for a snapshot
        folder = self.job.folder
        unwritten: tuple[Diagnostic, ...] = ()
        if folder is not None:
            try:
                write_snapshot(folder.path, snapshot)
            # the message about the value matters more than that the disk is full: report both
            except UserError as error:
                unwritten = error.diagnostics
        # the evaluator repeats the step and follows the bad value back through the equations
        chain = trace_snapshot(system, snapshot)
        losses = dict(zip(system.outputs, self.job.losses, strict=False))
        subject, value = _subject(system, found, chain, losses)
        # where nothing else is known, the loss that is bad, or one that is trained
        turn = self.job.settings.turn(snapshot.step)
        moved = [loss for loss in losses.values() if not turn or loss.name.id in turn]
        place, label, notes = locate(chain, losses.get(tensor, moved[0]).span)
        help = _advice(chain)
        if folder is not None and not unwritten:
            help = (
                f"`nnc debug {folder.path}` takes the step of {SNAPSHOT_NAME} again and shows the "
                f"provenance; {help}"
            )
        message = (
            f"{subject} became {value:g} in step {snapshot.step} (epoch {snapshot.epoch}); the "
            "weights are those before it"
        )
        main = Diagnostic("E0701", message, place, label=label, notes=notes, help=help)
        return UserError([main, *unwritten])


def trace_snapshot(system: System, snapshot: Snapshot) -> list[Bad]:
    """The trace of the snapshot's bad value, from where it was seen back to its origin, by the
    evaluator. Empty if the evaluator's values are finite: near overflow, the order of a sum
    decides."""
    arrays = evaluate(system, snapshot.arguments(system))
    # a param or state goes by the name of its next value: `w` → the temp of `w'`
    seen = system.updates.get(snapshot.tensor, snapshot.tensor)
    # The machine adds in another order: where only its value overflowed, any other bad root will
    # do.
    for name in (seen, *system.roots):
        array = arrays[name]
        index = snapshot.index if name == seen else first_bad(array)
        if index is not None and array.dtype.kind == "f" and not isfinite(array[index]):
            return trace_nonfinite(system, arrays, name, index)
    return []


def _advice(chain: list[Bad]) -> str:
    if chain and chain[-1].written:
        return "the program writes this `inf` for examples it has no use for: mend or remove them"
    return "a smaller learning rate or `clip = clip_norm(1.0)` may keep it finite"


def _subject(
    system: System, found: Found, chain: list[Bad], losses: Mapping[str, s.Field | s.Loss]
) -> tuple[str, float]:
    """What became bad, in the user's terms, and its value: the loss, else the gradient of a
    parameter if that is in the trace, else the tensor that was found."""
    tensor, index, value = found
    if tensor in losses:
        loss = losses[tensor]
        return f"the loss `{loss.name.id}`" if isinstance(loss, s.Loss) else "the loss", value
    parameters = {t.name for t in system.of_kind("param")}
    gradients = {n: of for n, of in system.adjoints.items() if of in parameters}
    for bad in chain:
        if bad.tensor in gradients:
            return f"the gradient of `{gradients[bad.tensor]}{_at(bad.index)}`", bad.value
    return f"`{tensor}{_at(index)}`", value


def _at(index: tuple[int, ...]) -> str:
    return str(list(index)) if index else ""


def locate(chain: list[Bad], loss: Span | None) -> tuple[Span | None, str, tuple[Note, ...]]:
    """The place in the user's file from which the value originates, a label for it, and notes on
    the library."""
    # no equation made it: the value was given (an input, or a parameter from the step before)
    if not chain or chain[-1].equation is None or chain[-1].equation.span is None:
        label = f"`{chain[-1]}` was {chain[-1].value:g} before the step" if chain else ""
        return loss, label, ()
    origin = chain[-1]
    assert origin.equation is not None
    span = origin.equation.span
    assert span is not None
    what = f"`{origin}` is {origin.value:g}"
    label = f"{what}: {origin.how}" if origin.how else what
    if isnan(origin.value):
        label = label.replace(" is nan", " is not a number")
    written = origin.written.span if origin.written else None
    more = (Note(written, "written here"),) if written not in (None, span) else ()
    # the equation is in the user's own file: the caret can stand there
    if not span.source.library:
        return span, label, more
    # in a layer of the library: point at where the user's file applies it
    if span.call_site is not None:
        return span.call_site, label, (Note(span, "computed here"), *more)
    # An optimizer or a loss has no such place: the nearest equation of the user's on the way from
    # where the value was seen to its origin.
    own = [
        bad
        for bad in chain
        if bad.equation is not None
        and bad.equation.span is not None
        and not bad.equation.span.source.library
    ]
    spot = own[-1].equation.span if own and own[-1].equation else loss
    return span, label, (Note(spot, "for this"), *more) if spot else more
