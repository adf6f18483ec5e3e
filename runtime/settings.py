"""What a train block says about the run, with typed values.

In: a checked `syntax.Train`. Out: its `Settings`. The loss, the metrics and the optimizer stay in
the block: they are equations, and the compiler's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import field
from typing import Any

from ..dsl.check.turns import Turn, turns
from ..dsl.diagnostics.diagnostic import Diagnostic, Note, Report, UserError, did_you_mean, fail
from ..dsl.diagnostics.foreign_terms import suggest_dtype
from ..dsl.records import record
from ..dsl.syntax import ast as s
from ..dsl.syntax.source import Span
from .conditions import SPLITS, Condition, Monitor, check_measured, measured_names
from .constants import Value, constant, constant_number
from .draw_choice import DrawChoice
from .durations import EXAMPLES, right_spelling, seconds_of
from .privacy import ARGUMENTS as PRIVACY_ARGUMENTS
from .privacy import PrivacyChoice
from .weights_choice import WeightsChoice


@record
class DataChoice:
    """`data = csv("houses.csv", target = "price")`: a source's name and its arguments."""

    source: str
    positional: tuple[Value, ...]
    named: Mapping[str, Value]
    spans: Mapping[str, Span]  # of the values
    names: Mapping[str, Span]
    span: Span


@record
class Settings:
    """How a model is trained. `patience` counts epochs and validations between them; `validation`
    is a share of the training set; None means no limit, the default monitor, or nothing between
    epochs. `validate_every` and `log_every` are in steps, `checkpoint_every` is so, or is a time
    (`durations.py`). `accumulate` counts the batches whose
    gradients a step adds up. `float` is the type computed in, `precision` that of the operands of
    contractions. `turns` is a cycle of steps by the losses that they train; empty if all steps
    train all. `limits` are the greatest values of sizes."""

    batch: int = 32
    epochs: int | None = None
    steps: int | None = None
    seed: int = 0
    patience: int | None = None
    monitor: Monitor | None = None
    validation: float = 0.0
    shuffle: bool = True
    keep: str = "best"
    validate_every: int | None = None
    log_every: int | None = None
    checkpoint_every: int | str = "10 min"
    keep_checkpoints: int = 2
    accumulate: int = 1
    float: str = "f32"
    precision: str = "f32"
    until: tuple[Condition, ...] = ()
    turns: tuple[Turn, ...] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)
    limits: Mapping[str, int] = field(default_factory=dict)
    data: DataChoice | None = None
    draw: DrawChoice | None = None
    weights: WeightsChoice | None = None
    private: PrivacyChoice | None = None

    def turn(self, step: int) -> Turn:
        """The losses that a step, from 1, trains; empty for all of them."""
        return self.turns[(step - 1) % len(self.turns)] if self.turns else ()

    def steps_alike(self, step: int) -> int:
        """How many steps from this one on train the same losses."""
        if len(set(self.turns)) < 2:
            return 2**31
        cycle = len(self.turns)
        return next(n for n in range(1, cycle) if self.turn(step + n) != self.turn(step))


def _whole(least: int, most: int = 2**31 - 1) -> Callable[[Any], bool]:
    # A value may be of any type, and `True` is an int in Python.
    return lambda v: isinstance(v, int) and not isinstance(v, bool) and least <= v <= most


# field → the words that it takes, in quotes or without
_WORDS = {"keep": ("best", "last"), "float": ("f32", "f64"), "precision": ("f32", "bf16")}


def _word(name: str) -> tuple[str, Callable[[Any], bool]]:
    return " or ".join(f'"{word}"' for word in _WORDS[name]), lambda v: v in _WORDS[name]


# field → what it takes, and whether a value is that
_VALUES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "batch":            ("a whole number from 1 to 2^31-1",  _whole(1)),
    "epochs":           ("a whole number from 1 to 2^31-1",  _whole(1)),
    "steps":            ("a whole number from 1 to 2^31-1",  _whole(1)),
    "seed":             ("a whole number from 0 to 2^31-1",  _whole(0)),
    "patience":         ("a whole number from 1 to 2^31-1",  _whole(1)),
    "validation":       ("a share from 0 up to 1",
                         lambda v: type(v) in (int, float) and 0 <= v < 1),
    "shuffle":          ("true or false",                    lambda v: isinstance(v, bool)),
    "keep":             _word("keep"),
    "validate_every":   ("a whole number of steps, from 1 to 2^31-1", _whole(1)),
    "log_every":        ("a whole number of steps, from 1 to 2^31-1", _whole(1)),
    "checkpoint_every": (f"a whole number of steps, or a time: {EXAMPLES}",
                         lambda v: seconds_of(v) is not None if isinstance(v, str)
                         else _whole(1)(v)),
    "keep_checkpoints": ("a whole number from 1 to 2^31-1",  _whole(1)),
    "accumulate":       ("a whole number from 1 to 2^15-1",  _whole(1, 2**15 - 1)),
    "float":            _word("float"),
    "precision":        _word("precision"),
}  # fmt: skip

_EQUATIONS = ("loss", "optimizer", "clip", "penalty", "average", "turns")  # left to the compiler
FIELDS = (*_VALUES, *_EQUATIONS, "data", "draw", "monitor", "weights", "private")

DEFAULT_EPOCHS = 10


# --- reading a train block ------------------------------------------------------------------------


def read_settings(train: s.Train, symbols: Sequence[str], sizes: Mapping[str, int]) -> Settings:
    """The settings of a train block; UserError E0702 or E0703 with everything that is wrong.

    `symbols` are the symbolic sizes of the model's inputs, the batch first, which the block may
    state: `T = 64`. `sizes` are those that the command line sets, which come first."""
    report = Report()
    stated: dict[str, int] = {}
    limits: dict[str, int] = {}
    found: dict[str, Any] = {}
    # Any order: a `let` may stand below the field that uses it.
    lets: dict[str, s.Expr] = {i.name.id: i.value for i in train.body if isinstance(i, s.Let)}
    conditions = []
    losses = [loss.name.id for loss in train.losses]
    spans: dict[str, Span] = {}
    for item in train.body:
        try:
            if isinstance(item, s.Until):
                conditions.append(Condition(item.condition, lambda e: constant_number(e, lets)))
            elif isinstance(item, s.Limit):
                limits[item.name.id] = size_of(item.name.id, item.value, lets, "the maximum of")
            elif isinstance(item, s.Field) and is_size(item.name.id, symbols):
                size = size_of(item.name.id, item.value, lets)
                # The first symbol is the batch, by another name.
                if item.name.id == symbols[0]:
                    found["batch"] = size
                else:
                    stated[item.name.id] = size
            elif isinstance(item, s.Field) and item.name.id not in _EQUATIONS:
                found[item.name.id] = _field(item, lets, losses)
                spans[item.name.id] = item.value.span
        # Collected, so that one attempt shows every wrong field.
        except UserError as error:
            report.extend(error.diagnostics)
    report.extend(_contradictions(found, spans))
    report.extend(_unmeasured(train, conditions, found.get("monitor"), _is_private(train)))
    if len(losses) > 1 and "monitor" not in found:
        report.extend(_incomparable(losses, found, spans))
        found["keep"] = "last"
    report.check()
    # A run must end, so without any limit there is a default one.
    if not conditions and "epochs" not in found and "steps" not in found:
        found["epochs"] = DEFAULT_EPOCHS
    return Settings(
        **found,
        sizes={**stated, **sizes},
        limits=limits,
        until=tuple(conditions),
        turns=turns(train),
    )


def _contradictions(found: Mapping[str, Any], spans: Mapping[str, Span]) -> Iterator[Diagnostic]:
    """E0703 for two fields that cannot both be."""
    pairs = []
    # The type of operands is rounded from f32; there is no such step from f64.
    if found.get("precision") == "bf16" and found.get("float") == "f64":
        message = "`precision = bf16` rounds what is computed in f32, and `float` is f64"
        pairs.append(("precision", "float", message, "of f32 alone"))
    # What is spent is counted for draws in which all examples are alike.
    if "draw" in found and "private" in found:
        message = "private training draws all examples alike, and `draw` does not"
        pairs.append(("draw", "private", message, "by what the data hold"))
    for one, other, message, label in pairs:
        notes, help = (Note(spans[other], "here"),), "leave out one of them"
        yield Diagnostic("E0703", message, spans[one], label=label, notes=notes, help=help)


def _is_private(train: s.Train) -> bool:
    return any(isinstance(i, s.Field) and i.name.id == "private" for i in train.body)


def is_size(name: str, symbols: Sequence[str]) -> bool:
    """Whether an entry of a train block states a size. Fields come first: a size may be called
    `steps`."""
    return name in symbols and name not in FIELDS


def size_of(name: str, value: s.Expr, lets: Mapping[str, s.Expr], what: str = "the size") -> int:
    found = constant(value, lets)
    if not _whole(1)(found):
        raise fail("E0703", f"{what} `{name}` must be a whole number from 1", value.span)
    assert isinstance(found, int)
    return found


def _unmeasured(
    train: s.Train, conditions: Sequence[Condition], monitor: Monitor | None, private: bool
) -> Sequence[Diagnostic]:
    """Names that are not measured, whatever splits the data may have."""
    measures = [i.name.id for i in train.measures]
    try:
        # Against all splits there could be; which exist is known with the data, in `prepare`.
        check_measured(conditions, monitor, measured_names(measures, SPLITS), private)
    except UserError as error:
        return error.diagnostics
    return ()


def _incomparable(
    losses: Sequence[str], found: Mapping[str, Any], spans: Mapping[str, Span]
) -> Iterator[Diagnostic]:
    """E0703 for what compares epochs although several losses say how good they are."""
    for name, wanted in (("patience", None), ("keep", "best")):
        if name in found and (wanted is None or found[name] == wanted):
            yield Diagnostic(
                "E0703",
                f"`{name}` compares epochs, and there are {len(losses)} losses",
                spans[name],
                label="by which of them?",
                help=f"say so: `monitor = {losses[0]}`, or a metric",
            )


def _field(item: s.Field, lets: Mapping[str, s.Expr], losses: Sequence[str]) -> Any:
    name = item.name.id
    if name == "data":
        return _data(item.value, lets)
    if name == "draw":
        return DrawChoice.read(item.value)
    if name == "monitor":
        return Monitor.read(item.value, losses)
    if name == "weights":
        return WeightsChoice.read(item.value, lets)
    if name == "private":
        return PrivacyChoice.read(item.value, lets)
    if name not in _VALUES:
        raise fail(
            "E0703",
            f"the field `{name}` has no meaning",
            item.name.span,
            help=did_you_mean(name, FIELDS),
        )
    expected, fits = _VALUES[name]
    # A bare word like `keep = best` is a text, unless a `let` defines it or it is a number.
    match item.value:
        case s.Name(id=word) if word not in lets and word != "inf":
            value: Value = word
        case other:
            value = constant(other, lets)
    if not fits(value):
        raise fail(
            "E0703",
            f"`{name}` must be {expected}",
            item.value.span,
            label="" if isinstance(item.value, s.Number) else f"it is {value}",
            help=_right_value(name, value),
        )
    return value


def _right_value(name: str, value: Value) -> str:
    """The help for a wrong value of a field."""
    text = str(value)
    if name == "checkpoint_every":
        right = right_spelling(text) if isinstance(value, str) else ""
        return f'write `"{right}"`' if right else ""
    if name in ("validate_every", "log_every"):
        # What is recorded, and with it `patience` and `keep`, would depend on the computer's speed.
        timed = seconds_of(text) is not None or right_spelling(text)
        return "it counts steps: no result of a run depends on the time it takes" if timed else ""
    # `float = float32` is a spelling of other frameworks; other words are merely misspelt.
    return (suggest_dtype if name == "float" else did_you_mean)(text, _WORDS.get(name, ()))


def _data(value: s.Expr, lets: Mapping[str, s.Expr]) -> DataChoice:
    # `data = mnist` is the same as `data = mnist()`.
    call = value if isinstance(value, s.Call) else s.Call(value.span, value, ())
    if not isinstance(call.function, s.Name):
        raise fail("E0703", "`data` names a source", value.span, help="like `data = mnist()`")
    named = [a for a in call.arguments if a.name is not None]
    report = Report()
    names: dict[str, Span] = {}
    for a in named:
        key = a.name or ""
        # An argument's span begins with its name, so the name is its first characters.
        name = Span(a.span.source, a.span.start, a.span.start + len(key))
        if key in names:
            report.add(
                "E0608",
                f"`{key}` is given twice",
                name,
                label="again here",
                notes=(Note(names[key], "first here"),),
            )
        # The first occurrence stays, for the note of every repetition.
        names.setdefault(key, name)
    report.check()
    return DataChoice(
        call.function.id,
        tuple(constant(a.value, lets) for a in call.arguments if a.name is None),
        {a.name: constant(a.value, lets) for a in named if a.name},
        {a.name: a.value.span for a in named if a.name},
        names,
        value.span,
    )


def settings_json(settings: Settings) -> dict[str, Any]:
    """The settings as plain values for `settings.json`."""
    plain = {name: getattr(settings, name) for name in _VALUES}
    plain["monitor"] = str(settings.monitor) if settings.monitor else None
    plain["until"] = [c.text for c in settings.until]
    plain["sizes"] = dict(settings.sizes)
    plain["limits"] = dict(settings.limits)
    plain["draw"] = settings.draw.text if settings.draw else None
    plain["weights"] = settings.weights.path if settings.weights else None
    if settings.private:
        plain["private"] = {name: getattr(settings.private, name) for name in PRIVACY_ARGUMENTS}
    if settings.data:
        data = settings.data
        plain["data"] = {
            "source": data.source,
            "positional": list(data.positional),
            "named": dict(data.named),
        }
    return plain
