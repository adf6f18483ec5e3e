"""Hints for characters that the language does not have, and for what follows a dot.

`x.mean(1)`, `np.exp(x)` and `self.fc(x)` are names with dots to the parser; the checks, which know
what `x` is, take their hints from here, too. Tests: tests/language/wrong, test_habits.py.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Container

from ..syntax.ast import REDUCTIONS
from ..syntax.lexer_rules import DTYPES
from .foreign_terms import advice, counterpart, foreign_terms, without_prefix

UNKNOWN_SIZE = "a size that is not known yet has a name, such as `B` for the batch: `f32[B, 8]`"

# Characters before a mistake that a search which may begin at each of them looks at.
NEAR = 200


def hint_for_character(text: str, offset: int) -> str:
    """For a character that the language does not have."""
    character = text[offset]
    if character == ".":
        return _hint_for_dot(text, offset)
    if character == "\\":
        if re.match(r"[a-zA-Z]", text[offset + 1 :]):
            return "write `a / b`, `sum(i) …`, `sqrt(x)`: LaTeX commands are not understood"
        return "a line continues while a bracket is open"
    terms = foreign_terms()
    if character == "?" and in_type(text[max(0, offset - NEAR) : offset]):
        return UNKNOWN_SIZE
    if character in terms["characters"]:
        return terms["characters"][character]
    name = unicodedata.name(character, "")
    if name.startswith("GREEK"):
        return f"write it out: `{name.split()[-1].lower()}`"
    if character in terms["look_alikes"]:
        return f"this is {name.lower()}, which looks like `{terms['look_alikes'][character]}`"
    if character.isalpha():
        return "names are made of the letters a-z and A-Z, digits and `_`"
    return ""


def in_type(before: str) -> bool:
    """Whether what follows is in the shape of a declaration: `x: f32[`, `w: [n, `."""
    return re.search(rf"(:\s*|\b({'|'.join(DTYPES)}))\[[^][]*$", before) is not None


def _hint_for_dot(text: str, offset: int) -> str:
    # `x.T` → x; `f(x).T` → x as well, the nearest name there is
    before = re.search(r"([A-Za-z_]\w*)?\)?$", text[max(0, offset - NEAR) : offset])
    owner = before.group(1) if before else None
    after = re.match(r"\.([A-Za-z_][\w.]*)(\(\s*\)?)?", text[offset : offset + NEAR])
    # `.5`, `1.` or `..`
    if after is None:
        return "a point stands between digits: `0.5`, `1.0`; `...` is three dots"
    if owner and (leaf := without_prefix(f"{owner}.{after.group(1)}")):
        return f"names have no prefix: `{counterpart(leaf) or leaf}`"
    name, _, further = after.group(1).partition(".")
    return hint_for_method(owner or "x", name, "" if further else after.group(2) or "")


def hint_for_method(value: str, name: str, call: str, known: Container[str] = ()) -> str:
    """For `value.name` and `value.name(…)`: `call` is "", "()" or "(", the latter where arguments
    follow. `known` are the functions that there are."""
    own = foreign_terms()["methods"].get(name)
    if own is not None:
        return own.replace("{x}", value)
    if name in REDUCTIONS and call == "(":
        return f"over an index, in an equation of its own: `m[b] = {name}(i) {value}[b, i]`"
    if not call:
        return "values have no attributes: every tensor has its own name"
    if found := advice(name):
        return found
    function = name if name in known or name in REDUCTIONS else ""
    return (
        "functions stand before the value or after a pipe: "
        f"`{function or 'f'}({value})`, `{value} |> {function or 'f'}`"
    )
