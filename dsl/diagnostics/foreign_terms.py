"""Foreign terms: what other languages and frameworks call what nnc names or writes differently.

The terms are data, `foreign_terms.toml`, read when the first error needs help.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from typing import Any

from .diagnostic import did_you_mean


@cache
def foreign_terms() -> dict[str, Any]:
    """The sections of the file."""
    import tomllib  # not by programs without a mistake

    return tomllib.loads(files(__package__).joinpath("foreign_terms.toml").read_text("utf-8"))


def suggest(name: str, known: Iterable[str], kind: str = "values") -> str:
    """Help for an unknown name of a layer, function or value: its name in nnc, the idiom that
    replaces it, or a similar name among those `known`; "" if there is none."""
    # A known term is a better answer than a name that only looks alike.
    return advice(name, kind) or did_you_mean(name, known)


def advice(name: str, kind: str = "values") -> str:
    """What a foreign term is called here, or the idiom that replaces it; "" if it is none."""
    terms = foreign_terms()[kind]
    if name in terms["names"]:
        return f"here it is `{terms['names'][name]}`"
    return terms["idioms"].get(name, "")


def counterpart(name: str) -> str:
    """The definition that a foreign name of a layer or function stands for: Conv2d → Conv."""
    found = foreign_terms()["values"]["names"].get(name, "")
    return found if found.isidentifier() else ""


def names_input_size(name: str) -> bool:
    """Whether the layer's first argument elsewhere is the size of its input."""
    return name in foreign_terms()["values"]["sized"]["names"]


def without_prefix(name: str) -> str:
    """`torch.nn.functional.relu` → `relu`; "" for what has no module before it."""
    prefix, _, leaf = name.rpartition(".")
    return leaf if prefix.partition(".")[0] in foreign_terms()["prefixes"]["names"] else ""


def suggest_setting(name: str, known: Iterable[str], callee: str = "") -> str:
    """For the name of an argument: a setting that the callee does not have is not suggested."""
    known = list(known)
    if name == "activation" and "f" in known:  # inside a recurrence, not after it
        name = "nonlinearity"
    terms = foreign_terms()["settings"]
    own = terms["of"].get(callee, {}).get(name)
    if own is not None:
        return own
    renamed = terms["names"].get(name)
    # the term is known, but this callee has nothing of the kind
    if renamed is not None and renamed not in known:
        return did_you_mean(name, known)
    return suggest(name, known, "settings").replace("{callee}", callee)


def suggest_field(name: str, known: Iterable[str]) -> str:
    """For a field of a train block."""
    return suggest(name, known, "fields") or f"a value of your own is a `let {name} = …`"


def suggest_dtype(name: str, known: Iterable[str]) -> str:
    """For an element type."""
    return suggest(name, known, "dtypes") or f"a shape is written in brackets: `[{name}]`"
