"""Names: what the language predefines, what a file can see, and which names a tree uses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..records import record
from ..syntax import ast as s
from ..syntax.lexer_rules import DTYPES
from ..syntax.source import Source
from .library import standard_library

MANY = 99  # no limit on the number of arguments

# Functions that the compiler implements: the least and the greatest number of arguments.
BUILTINS: dict[str, tuple[int, int]] = {
    **dict.fromkeys(
        ("exp", "log", "sqrt", "tanh", "sin", "cos", "erf", "erfc", "abs", "floor", "ceil"), (1, 1)
    ),
    **dict.fromkeys(("round", "sign", "log1p", "expm1", "sigmoid"), (1, 1)),
    **dict.fromkeys(("is_finite", "stop"), (1, 1)),
    **dict.fromkeys(("sum", "prod", "mean", "argmax", "argmin", "rank", "count"), (1, 1)),
    **dict.fromkeys(DTYPES, (1, 1)),
    **dict.fromkeys(("max", "min"), (1, MANY)),
    **dict.fromkeys(("concat", "stack"), (1, MANY)),
    "split": (2, MANY),
    "pad": (2, 3),
    "table": (1, 1),
    "after": (2, 2),
    "grad": (2, 2),
    "random": (0, 4),
}

# Those that work along one dimension, and the arguments that they take by name.
JOINING = {
    "concat": ("axis",),
    "stack": ("axis",),
    "split": ("axis",),
    "pad": ("axis", "value"),
}

# `fan_in` and `fan_out` have values only while a parameter is drawn.
CONSTANTS = ("inf", "nan", "pi", "training", "fullness", "fan_in", "fan_out")

DISCARDED = "_"  # what is assigned to it has no name, however often
NO_SIZES = (DISCARDED, "None", "null")  # elsewhere, a size that is not known

# What an optimizer can read: parameter, gradient, step, and the norm of all gradients.
OPTIMIZER_NAMES = ("p", "g", "t", "norm")


@record
class Scope:
    """The definitions that a file can see: its own, those of used files, the library's."""

    own: Mapping[str, s.Definition]
    used: Mapping[str, s.Definition]
    library: Mapping[str, s.Definition]

    def find(self, name: str) -> s.Definition | None:
        """The definition of a name; an inner one shadows an outer one."""
        return self.own.get(name) or self.used.get(name) or self.library.get(name)

    def has_function(self, name: str) -> bool:
        """Whether something of this name can be applied."""
        found = self.find(name)
        return name in BUILTINS if found is None else found.kind != "optimizer"

    def names(self) -> Iterator[str]:
        for names in (self.own, self.used, self.library, BUILTINS):
            yield from names


class Definitions(dict[str, s.Definition]):
    """The definitions of a program by name, as its file sees them. `scopes` has what the program's
    other texts see: the files that it uses, and the library of a run (`bundle.py`)."""

    def __init__(
        self,
        names: Mapping[str, s.Definition],
        scopes: Mapping[Source, Mapping[str, s.Definition]],
    ):
        super().__init__(names)
        self.scopes = scopes


def seen_from(
    definitions: Mapping[str, s.Definition], source: Source
) -> Mapping[str, s.Definition]:
    """The definitions that a text of the program sees: lexical scoping, so that `Dense` in a used
    file, or in the library, stays what it was there, whatever the program calls its own layers."""
    found = definitions.scopes.get(source) if isinstance(definitions, Definitions) else None
    if found is not None:
        return found
    return standard_library() if source.library else definitions


def input_symbols(model: s.Definition) -> list[str]:
    """The symbolic sizes of a model's inputs in the order in which they appear."""
    # A shape names the batch first by convention, so the first symbol of the first input is it.
    items = (item for p in model.inputs for item in ((p.type and p.type.shape) or ()))
    return list(dict.fromkeys(item.id for item in items if isinstance(item, s.Name)))


def names_in(node: object) -> set[str]:
    """Every name that a tree uses."""
    return {part.id for part in s.walk(node) if isinstance(part, s.Name)}


def callees(node: object, branches: bool = True) -> Iterator[s.Name]:
    """The names in a tree that are applied: `f` in `f(x)`, `x |> f` and `param w: [n] ~ f`."""
    for part in s.walk(node, branches):
        match part:
            case s.Call(function=s.Name() as name) | s.Pipe(stage=s.Name() as name):
                yield name
            case s.Param(value=s.Name() as name, drawn=True):
                yield name


def called_names(definition: s.Definition) -> Iterator[str]:
    """Names of functions and layers that a definition always needs: not those in only one branch of
    an `if`."""
    # Recursion that an `if` on a constant ends is sound: `tower(n) = if n > 0 then … tower(n - 1)`.
    return (name.id for name in callees((definition.body, definition.value), branches=False))


def value_names(node: object, bound: frozenset[str] = frozenset()) -> Iterator[s.Name]:
    """The names that an expression takes for values: none that is applied, and none of an index
    that a reduction around it introduces (`bound`)."""
    match node:
        case s.Name(id=name, primed=primed):
            if name not in bound and not primed:
                yield node
        case s.Call(function=s.Name(), arguments=arguments):
            yield from value_names(arguments, bound)
        case s.Pipe(value=value, stage=stage):
            yield from value_names(value, bound)
            if not isinstance(stage, s.Name):
                yield from value_names(stage, bound)
        case s.Index(tensor=tensor, indices=indices):
            # brackets need the tensor, even where an index has its name
            yield from value_names(tensor)
            yield from value_names(indices, bound)
        case s.Reduce(axes=axes, body=body):
            yield from value_names(tuple(a.bound for a in axes), bound)
            yield from value_names(body, bound | {a.name for a in axes})
        case tuple():
            for part in node:
                yield from value_names(part, bound)
        case s.Node():
            yield from value_names(tuple(vars(node).values()), bound)
