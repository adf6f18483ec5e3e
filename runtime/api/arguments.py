"""Arguments of calls: what they may be, and as assignments of the train block."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ...dsl.diagnostics.diagnostic import fail
from ..assignments import Assignment

# the arguments of calls that take fields by name, too
ARGUMENTS: Mapping[str, tuple[str, ...]] = {
    "fit": (
        "epochs", "steps", "batch", "seed", "validation", "sample_weight", "class_weight",
        "callbacks", "verbose", "settings",
    ),
    "predict": ("model", "tensor", "seed"),
    "attribute": (
        "method", "of", "at", "baseline", "steps", "noise", "samples", "window", "stride",
        "features", "result", "position", "randomise", "curves", "seed",
    ),
    "evaluate": (),
    "init": ("seed",),
}  # fmt: skip


def check_no_arrays(call: str, values: Mapping[str, object], what: str) -> None:
    """E0708 for an array in the place of an argument: a field of the data may be called so."""
    for name, value in values.items():
        if isinstance(value, np.ndarray | list) and np.ndim(value) and name != "tensor":
            raise fail(
                "E0708",
                f"`{name}` of {call} is an argument, and an array is given",
                help=f"{what} `{name}` is given by its place, without its name, or in a dictionary",
            )


def share(validation: object) -> dict[str, object]:
    """The assignment for a share of the examples, if it is one. UserError E0708 for what is neither
    a number nor arrays."""
    if isinstance(validation, int | float | np.number) and not isinstance(validation, bool):
        return {"validation": float(validation)}
    if validation is None or isinstance(validation, list | tuple | Mapping):
        return {}
    raise fail(
        "E0708",
        f"`validation` is {type(validation).__name__}",
        help="it is `(x, y)`, a dictionary of arrays, or a share of the examples such as 0.1",
    )


def seed_of(seed: int | None) -> int | None:
    """UserError E0703 unless it is a whole number that a seed may be."""
    if seed is None:
        return None
    whole = isinstance(seed, int | np.integer | float) and int(seed) == seed
    if whole and 0 <= int(seed) < 1 << 31:
        return int(seed)
    raise fail("E0703", f"`seed` is a whole number from 0 to 2^31-1, and not {seed}")


def assignments(values: Mapping[str, object]) -> list[Assignment]:
    """Python values as the text of assignments."""
    if not isinstance(values, Mapping):
        raise fail(
            "E0704",
            f"`settings` is {type(values).__name__}, and not a dictionary",
            help='like `settings={"optimizer.lr": 1e-3, "batch": 64}`',
        )
    words = {True: "true", False: "false"}
    texts = {k: words[v] if isinstance(v, bool) else str(v) for k, v in values.items()}
    return [Assignment(key, text, place="the call") for key, text in texts.items()]
