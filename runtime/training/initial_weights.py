"""Trained weights that another model begins with, matched by name and shape.

In: a run folder or a safetensors file, and the parameters and states of a program. Out: the arrays
that fit, and a report of what does not. All must fit unless the choice is `partial`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from ...compiler.elaboration.players import is_frozen
from ...dsl.diagnostics.diagnostic import Diagnostic, UserError, did_you_mean, fail
from ...dsl.likely_paths import did_you_mean_path
from ...dsl.records import record
from ...dsl.regular_files import is_within
from ...dsl.syntax.printer import quoted
from ..project import Project
from ..weights_choice import WeightsChoice
from .atomic_files import load_arrays
from .executor import Executor
from .run_folder import RunFolder, is_run

LISTED = 8  # names in a message


@record
class WeightsReport:
    """What of a file's weights a model has begun with, by the model's names."""

    origin: str
    matched: tuple[str, ...]
    missing: tuple[str, ...]  # of the model, with its sizes: they stay what they are
    extra: tuple[str, ...]  # of the file, which the model has not
    wrong_shape: tuple[str, ...]  # in both, with the sizes of both

    @property
    def is_complete(self) -> bool:
        """Whether all of the model's weights are in the file, and no others."""
        return not (self.missing or self.extra or self.wrong_shape)

    def summary(self) -> str:
        """How many of each kind there are: `4 matched, 2 missing, 2 extra, 0 of another shape`."""
        counts = [len(self.missing), len(self.extra), len(self.wrong_shape)]
        kinds = ("missing", "extra", "of another shape")
        rest = ", ".join(f"{n} {kind}" for n, kind in zip(counts, kinds, strict=True))
        return f"{len(self.matched)} matched, {rest}"

    def details(self) -> list[str]:
        """A line for each kind of those that do not fit."""
        found = (
            ("missing", self.missing),
            ("extra", self.extra),
            ("of another shape", self.wrong_shape),
        )
        return [f"{kind}: {_listed(names)}" for kind, names in found if names]

    def __str__(self) -> str:
        return "\n".join([f"weights of {self.origin}: {self.summary()}", *self.details()])


def match(
    found: Mapping[str, np.ndarray],
    wanted: Mapping[str, np.ndarray],
    choice: WeightsChoice,
    frozen: Callable[[str], bool] = lambda name: False,
) -> tuple[dict[str, np.ndarray], WeightsReport, list[Diagnostic]]:
    """The arrays that fit, converted to the types wanted, a report, and a warning W0704 for
    parameters that are `frozen` and not among them.

    UserError E0714 if nothing fits, or not all does where it must.
    """
    # Where two have one name here, the one that was renamed to it counts.
    own = {n: n for n in found} | {choice.renamed(n): n for n in found if choice.renamed(n) != n}
    values: dict[str, np.ndarray] = {}
    wrong = []
    for name, array in wanted.items():
        if name not in own:
            continue
        stored = found[own[name]]
        if stored.shape == array.shape and np.can_cast(stored.dtype, array.dtype, "same_kind"):
            values[name] = _converted(own[name], stored, array.dtype, choice)
        else:
            wrong.append(f"`{name}` ({_described(stored)} there, {_described(array)} here)")
    missing = {n: a for n, a in wanted.items() if n not in own}
    used = {own[n] for n in wanted if n in own}
    extra = {n: a for n, a in found.items() if n not in used}
    report = WeightsReport(
        choice.path,
        tuple(values),
        tuple(f"`{n}` {_described(a)}" for n, a in missing.items()),
        tuple(f"`{n}` {_described(a)}" for n, a in extra.items()),
        tuple(wrong),
    )
    if not values or not (choice.partial or report.is_complete):
        raise fail(
            "E0714",
            f"the weights of {choice.path} do not fit: {report.summary()}",
            choice.span,
            label="; ".join(report.details()),
            help=_advice(choice, missing, extra, bool(values)),
        )
    return values, report, _undrawn(choice, [n for n in wanted if n not in values and frozen(n)])


def match_all(found: Mapping[str, np.ndarray], executor: Executor) -> dict[str, np.ndarray]:
    """The weights of a model for other data. UserError E0714 if its sizes are others there."""
    return match(found, executor.weight_forms(), WeightsChoice("this model"))[0]


def _undrawn(choice: WeightsChoice, frozen: list[str]) -> list[Diagnostic]:
    if not frozen:
        return []
    return [
        Diagnostic(
            "W0704",
            f"{_listed([f'`{n}`' for n in frozen])} {'is' if len(frozen) == 1 else 'are'} frozen, "
            f"and not among the weights of {choice.path}",
            choice.span,
            label="these stay as they are drawn",
            help="freeze what has been trained; or rename layers: "
            '`partial("…", from = "encoder", to = "trunk")`',
        )
    ]


def _advice(
    choice: WeightsChoice,
    missing: Mapping[str, np.ndarray],
    extra: Mapping[str, np.ndarray],
    some: bool,
) -> str:
    """The likely way to make the weights fit."""
    if choice.old and all(choice.renamed(name) == name for name in extra):
        near = did_you_mean(choice.old, {name.split("_")[0] for name in extra})
        return f"none of the weights there begins with `{choice.old}`; {near}".rstrip("; ")
    path = quoted(choice.path)
    layers = _renaming(missing, extra)
    if layers is not None:
        arguments = f"from = {quoted(layers[0])}, to = {quoted(layers[1])}"
        return f"`weights = partial({path}, {arguments})` renames the layers"
    if not some:
        return "are these the weights of another model?"
    return f"`weights = partial({path})`, or `--partial`, takes those that fit"


def _renaming(
    missing: Mapping[str, np.ndarray], extra: Mapping[str, np.ndarray]
) -> tuple[str, str] | None:
    """(`encoder`, `trunk`): the exchange of layers that finds most of what is missing, two weights
    at least."""
    best: tuple[int, tuple[str, str] | None] = (1, None)
    name = next(iter(missing), "")
    for other in extra:
        if extra[other].shape != missing[name].shape:
            continue
        # `trunk_dense1_w` and `encoder_dense1_w`: the longest end that both have
        here, there, same = name.split("_"), other.split("_"), 0
        while same < min(len(here), len(there)) and here[-1 - same] == there[-1 - same]:
            same += 1
        if not same or here == there:
            continue
        old, new = ("_".join(part[: len(part) - same]) for part in (there, here))
        choice = WeightsChoice("", True, old, new)
        found = [(choice.renamed(n), n) for n in extra if choice.renamed(n) != n]
        fits = sum(m in missing and missing[m].shape == extra[n].shape for m, n in found)
        best = max(best, (fits, (old, new)), key=lambda one: one[0])
    return best[1]


def _converted(name: str, stored: np.ndarray, dtype: np.dtype, choice: WeightsChoice) -> np.ndarray:
    """The numbers in another type. UserError E0714 where one does not fit: a float that would be
    infinite, or a whole number that would be another."""
    with np.errstate(over="ignore"):
        found = stored.astype(dtype)
    wrong = np.isfinite(found) != np.isfinite(stored) if dtype.kind == "f" else found != stored
    if wrong.any():
        number = stored[wrong].flat[0]
        raise fail(
            "E0714",
            f"`{name}` of {choice.path} holds {number:g}, which does not fit in {dtype}",
            choice.span,
        )
    return found


def _described(array: np.ndarray) -> str:
    return str(list(array.shape))


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = len(names) - LISTED
    return ", ".join(names[:LISTED]) + (f" and {more} more" if more > 0 else "")


def initial_weights(
    project: Project, choice: WeightsChoice, executor: Executor
) -> tuple[dict[str, np.ndarray], WeightsReport, list[Diagnostic]]:
    """The weights that a project names, as `match`. UserError as `match` and `read_weights`."""
    found = read_weights(choice, project.path.parent)
    return match(found, executor.weight_forms(), choice, partial(is_frozen, project.block))


# --- files ----------------------------------------------------------------------------------------


def read_weights(choice: WeightsChoice, base: Path) -> dict[str, np.ndarray]:
    """The arrays of a run or a file. A path that the program names lies below its folder `base` or
    the current one; who runs it may name any.

    UserError E0617 if it leads out of these, E0706 if it is no run and no file of weights.
    """
    outside = choice.span is None or choice.span.source.outside
    path = Path(choice.path) if outside else _placed(choice, base)
    try:
        if not path.exists() and (help := did_you_mean_path(path, _has_weights)):
            raise fail("E0706", f"there is no run and no file {path}", help=help)
        if path.is_dir() or not path.exists():
            folder = RunFolder(path)
            folder.require()
            path = folder.weights_file
        return load_arrays(path, foreign=True)[0]
    except UserError as error:
        # with the place where the program names it
        raise UserError([replace(d, span=choice.span) for d in error.diagnostics]) from error


def _has_weights(path: Path) -> bool:
    return path.suffix == ".safetensors" or is_run(path)


def _placed(choice: WeightsChoice, base: Path) -> Path:
    folders = list(dict.fromkeys([base.resolve(), Path.cwd()]))
    tried = [folder / choice.path for folder in folders]
    path = next((p for p in tried if p.exists()), tried[0])
    if not is_within(path, folders):
        raise fail(
            "E0617",
            f"`{choice.path}` leads out of the folder of the program",
            choice.span,
            help=f"who runs it may name it: `--init {choice.path}`",
        )
    return path
