"""Forms: what is left of an expression or an equation without the names of its tensors.

    h1[i] = tanh(z1[i]) * w1[i]        the same form, of the names (h1, z1, w1)
    h2[i] = tanh(z2[i]) * w2[i]        and (h2, z2, w2)

The blocks of a deep model differ in names alone. What a pass finds out about one equation, or makes
of it, holds for every equation of its form, under the other names: it is done once and looked up
for all others. Forms are interned, as expressions are (`expr.py`): equal forms are the same object,
and the form of a node is made of those of its children. Names of indices are part of a form. Cf.
alpha-equivalence, and hash-consing modulo it (Maziarz et al. 2021, "Hashing modulo
alpha-equivalence"). Tests: tests/passes/test_forms.py.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from weakref import WeakValueDictionary

from .expr import Apply, Expr, Read, reads

Formed = tuple[Hashable, tuple[str, ...]]  # a form, and the names in order of their occurrence


class Form:
    """Compared by identity: a form of an expression that reads tensors, or of an equation."""

    __slots__ = ("__weakref__",)


_forms: WeakValueDictionary[tuple, Form] = WeakValueDictionary()


def form_of(expr: Expr) -> Formed:
    """The form of an expression and the names of the tensors that it reads, each once."""
    try:
        return expr._form  # type: ignore[attr-defined]
    except AttributeError:
        set_form(expr, _form_of(expr))
        return expr._form  # type: ignore[attr-defined]


def set_form(expr: Expr, form: Formed) -> None:
    """Note the form of an expression that is known otherwise."""
    expr._form = form  # type: ignore[attr-defined]


def _form_of(expr: Expr) -> Formed:
    if not reads(expr):
        return expr, ()
    if isinstance(expr, Read):
        return joined((Read, expr.dtype, expr.other is None), [expr.tensor], expr.children)
    assert isinstance(expr, Apply)
    return joined((expr.fn, expr.dtype), (), expr.args)


def joined(kind: tuple, names: Iterable[str], parts: Iterable[Expr]) -> Formed:
    """The form of something of a kind that has names of its own and expressions as parts."""
    numbers = {name: n for n, name in enumerate(names)}
    key: list[Hashable] = [*kind]
    for part in parts:
        form, own = form_of(part)
        key.append(form)
        # Which of the part's names are which of the whole's: a*b + a is not a*b + b.
        if own:
            key.append(tuple([numbers.setdefault(name, len(numbers)) for name in own]))
    return interned(tuple(key)), tuple(numbers)


def interned(key: tuple) -> Form:
    """The form with this key, which says all that distinguishes it."""
    found = _forms.get(key)
    if found is None:
        # Two threads may make two of them: then something is done twice.
        found = _forms[key] = Form()
    return found
