"""The parameters of a model as a dictionary, in which they can be set.

In: a name and numbers. Out: new weights of the model, or every mistake at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from ...dsl.diagnostics.diagnostic import Diagnostic, did_you_mean
from .arrays import to_numpy
from .errors import UserError


class ParameterError(UserError, KeyError):
    """A model has no parameter of that name."""


ParameterError.__module__ = "nnc"
Setter = Callable[[Mapping[str, object]], Mapping[str, np.ndarray]]


class Parameters(dict[str, np.ndarray]):
    """Parameters and states by name, as they were when they were asked for. What is set here is set
    in the model: `model.parameters["dense1.w"] = w`, several at once by `update`. The arrays are
    copies: changing one in place changes nothing else. A dot in a name is an underscore, too.

    Setting raises UserError E0714 for a name that the model has not, another shape, a type that
    cannot become that of the parameter, and numbers that are not finite; then nothing is set."""

    def __init__(self, values: Mapping[str, np.ndarray], setter: Setter) -> None:
        super().__init__(values)
        self._setter = setter

    def __missing__(self, name: object) -> np.ndarray:
        own = own_name(str(name), self)
        if own in self:
            return self[own]
        raise ParameterError([unknown(str(name), self)])

    def __setitem__(self, name: str, value: object) -> None:
        self.update({name: value})

    def update(self, *others: Any, **named: Any) -> None:
        """Set several at once, or none if one of them is wrong."""
        given: dict[str, object] = {}
        for other in others:
            given.update(other)
        try:
            super().update(self._setter({**given, **named}))
        except UserError as error:
            raise error.with_traceback(None) from None

    def __ior__(self, other: Any) -> Parameters:  # type: ignore[misc, override]
        self.update(other)
        return self

    def _fixed(self, *arguments: object, **named: object) -> Any:
        raise TypeError("the parameters of a model can be set, and not removed or added")

    __delitem__ = pop = popitem = clear = setdefault = _fixed

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)


def own_name(name: str, known: Iterable[str]) -> str:
    """A parameter's own name for one with dots: `dense1.w` is `dense1_w`."""
    return name if name in known else name.replace(".", "_")


def unknown(name: str, known: Iterable[str]) -> Diagnostic:
    """E0714 for a name that no parameter has."""
    known = list(known)
    help = did_you_mean(own_name(name, known), known) or f"it has {', '.join(known[:8]) or 'none'}"
    more = ", …" if len(known) > 8 and help.startswith("it has") else ""
    return Diagnostic("E0714", f"the model has no parameter `{name}`", help=help + more)


def checked(
    values: Mapping[str, object], current: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Values as arrays of the shapes and types that the parameters have, by their own names.
    UserError E0714 with all that do not fit."""
    wrong: list[Diagnostic] = []
    found = {}
    for name, value in values.items():
        own = own_name(name, current)
        if own not in current:
            wrong.append(unknown(name, current))
            continue
        array, wanted = to_numpy(name, value), current[own]
        problem = _problem(array, wanted)
        if problem:
            wrong.append(Diagnostic("E0714", f"`{own}` is {_form(wanted)}, and {problem}"))
            continue
        with np.errstate(over="ignore"):  # found below, with the number that it was
            found[own] = np.array(array, wanted.dtype, order="C")
        if wanted.dtype.kind == "f" and not np.isfinite(found[own]).all():
            place = np.argwhere(~np.isfinite(found[own]))[0].tolist()
            number = array[tuple(place)]
            message = f"`{own}` would be {number} at {place}, which is not finite in {wanted.dtype}"
            wrong.append(Diagnostic("E0714", message))
    if wrong:
        raise UserError(wrong)
    return found


def _problem(array: np.ndarray, wanted: np.ndarray) -> str:
    """How an array does not fit; empty if it does."""
    if array.dtype.kind not in "biuf" or not np.can_cast(array.dtype, wanted.dtype, "same_kind"):
        return f"{array.dtype} cannot become {wanted.dtype}"
    return "" if array.shape == wanted.shape else f"{_form(array)} is given"


def _form(array: np.ndarray) -> str:
    return f"{array.dtype}{list(array.shape)}"
