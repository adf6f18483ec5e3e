"""Sizes at which a model can be evaluated: its own, or smaller ones if those are too large.

In: a `Project`, its `Setup` if it is trained, and how many points the evaluator may go through.
Out: the same for fewer examples and shorter sequences, and a text that says which. Sizes that the
file fixes (`Dense(800)`, `f32[B, 28, 28, 1]`) stay.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ...compiler.elaboration.train_block import FieldType, Setup
from ...compiler.pipeline import derive
from ...compiler.programs import training_step
from ...compiler.reference.pass_checker import points
from ...dsl.diagnostics.diagnostic import UserError
from ...dsl.syntax import ast as s
from ..project import Project
from .model_system import model_system

SMALLEST = 3  # examples: two are special to what normalises over the batch


@dataclass(frozen=True)
class FittedSizes:
    """A program at the sizes chosen, and what these are in words."""

    project: Project
    setup: Setup | None
    text: str


def fit_sizes(
    project: Project, setup: Setup | None, most: int, largest_batch: int | None = None
) -> FittedSizes:
    """The largest sizes tried that the evaluator can go through, or else the smallest."""
    # sizes of a model without data are in the program itself
    if setup is None:
        return _fit_model(project, largest_batch)
    # the batch goes first: it changes least of what is computed
    first = setup if largest_batch is None else _with_batch(setup, largest_batch)
    work = _points(first)
    if work > most:
        # work is about linear in the batch, so this is the largest that fits
        batch = max(SMALLEST, first.batch * most // work)
        first = _with_batch(first, batch)
        work = _points(first)
    shrunk: dict[str, tuple[int, int]] = {}
    if work > most:
        # then sequences: halved until the work fits, or no size can be halved any more
        for smaller, sizes in _shorter(project, first):
            shrunk, first = sizes, smaller
            if _points(first) <= most:
                break
    return FittedSizes(project, first, _text(setup, first, shrunk))


def _fit_model(project: Project, largest_batch: int | None) -> FittedSizes:
    """A model without a train block has few examples to begin with."""
    own = project.settings.batch
    batch = min(own, largest_batch or own, 8)
    changed = replace(project, settings=replace(project.settings, batch=batch))
    # a program may fix its batch, or ask for more examples than these
    try:
        model_system(changed)
    except UserError:
        changed, batch = project, own
    return FittedSizes(changed, None, f"batch {batch}")


def _points(setup: Setup) -> int:
    return points(derive(training_step(setup)[0]))


def _with_batch(setup: Setup, batch: int) -> Setup:
    """The setup for at most so many examples, if the model allows it."""
    # never more than its own batch
    smaller = replace(setup, batch=min(batch, setup.batch))
    try:
        # elaboration says whether all sizes still agree
        training_step(smaller)
    except UserError:
        return setup
    return smaller


def _shorter(project: Project, setup: Setup) -> Iterator[tuple[Setup, dict[str, tuple[int, int]]]]:
    """The setup with the sizes that the data bind halved, again and again."""
    own = _bound_by_data(project, setup)
    now, fields = dict(own), dict(setup.fields or {})
    for name in own:
        # shorter ones would leave windows and masks nothing to do
        while now[name] > 4:
            half = now[name] // 2
            # fields of the same length (`tokens` and `labels`) shrink together
            smaller = {n: _resized(f, now[name], half) for n, f in fields.items()}
            candidate = replace(setup, fields=smaller)
            try:
                # a size that some equation fixes cannot be halved: go on with the next
                training_step(candidate)
            except UserError:
                break
            now[name], fields = half, smaller
            yield candidate, {n: (own[n], now[n]) for n in own if now[n] != own[n]}


def _bound_by_data(project: Project, setup: Setup) -> dict[str, int]:
    found: dict[str, int] = {}
    for parameter in project.model.inputs:
        pattern = (parameter.type and parameter.type.shape) or ()
        field = (setup.fields or {}).get(parameter.name)
        # [1:]: the batch is no size of the data
        for item, size in zip(pattern[1:], field.shape if field else (), strict=False):
            # what the program fixes itself stays
            if isinstance(item, s.Name) and item.id not in setup.sizes:
                found.setdefault(item.id, size)
    return found


def _resized(field: FieldType, old: int, new: int) -> FieldType:
    return replace(field, shape=tuple(new if size == old else size for size in field.shape))


def _text(setup: Setup, chosen: Setup, shrunk: dict[str, tuple[int, int]]) -> str:
    parts = [(f"batch {chosen.batch}", setup.batch, chosen.batch)]
    parts += [(f"{name} = {new}", old, new) for name, (old, new) in shrunk.items()]
    return ", ".join(
        text + (f" (its own is {old})" if old != new else "") for text, old, new in parts
    )
