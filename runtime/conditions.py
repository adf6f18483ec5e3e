"""Conditions on what is measured: `until loss < 0.01`, and what `monitor` watches.

In: expressions of a train block. Out: `Condition` and `Monitor`, which are evaluated on measured
values after every epoch.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence

from ..dsl.check.train_block import SPLITS
from ..dsl.diagnostics.diagnostic import Report, did_you_mean, fail
from ..dsl.records import record
from ..dsl.syntax import ast as s
from ..dsl.syntax.printer import format_expr
from ..dsl.syntax.source import Span

_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
    "==": operator.eq, "!=": operator.ne,
}  # fmt: skip

Number = Callable[[s.Expr], int | float]


class Condition:
    """`loss < 0.01 and test_accuracy > 0.9`: measured names compared with numbers.

    `number` gives the value of a constant expression. UserError E0702 for any other form.
    """

    def __init__(self, expr: s.Expr, number: Number):
        self.expr, self._number = expr, number
        self.text = format_expr(expr)
        self.names: dict[str, Span] = {}
        self._holds = self._compiled(expr, number)

    @property
    def alternatives(self) -> list[Condition]:
        """The conditions of which one has to hold: of `a or b` these two."""
        if not isinstance(self.expr, s.Binary) or self.expr.op != "or":
            return [self]
        sides = (Condition(side, self._number) for side in (self.expr.left, self.expr.right))
        return [one for side in sides for one in side.alternatives]

    def holds(self, values: Mapping[str, float]) -> bool:
        """Whether it is true of these values, which include all `names`."""
        return self._holds(values)

    def _compiled(self, expr: s.Expr, number: Number) -> Callable[[Mapping[str, float]], bool]:
        # Compiled once into closures; `and` and `or` short-circuit like Python's.
        if isinstance(expr, s.Binary) and expr.op in ("and", "or"):
            left, right = self._compiled(expr.left, number), self._compiled(expr.right, number)
            if expr.op == "and":
                return lambda values: left(values) and right(values)
            return lambda values: left(values) or right(values)
        # A measured name on the left, a constant on the right, so that 0.01 > loss is not accepted.
        if isinstance(expr, s.Binary) and expr.op in _COMPARE and isinstance(expr.left, s.Name):
            name, compare, bound = expr.left.id, _COMPARE[expr.op], number(expr.right)
            self.names[name] = expr.left.span
            return lambda values: compare(values[name], bound)
        raise fail(
            "E0702",
            "`until` compares what is measured with numbers",
            expr.span,
            help="like `until loss < 0.01` or `until test_accuracy > 0.99`",
        )


@record
class Monitor:
    """The value that decides whether an epoch was better: less of a loss, more of a metric, less of
    a metric with a `-` before it. `span` is None for the default."""

    name: str
    less: bool
    span: Span | None = None
    loss: bool = True

    @staticmethod
    def read(expr: s.Expr, losses: Sequence[str]) -> Monitor:
        """From `monitor = test_accuracy`; UserError E0702 if it is not a name. Less is better
        of the losses."""
        # `-error` watches for less of a metric, where more would be better by default.
        negative = isinstance(expr, s.Unary) and expr.op == "-"
        name = expr.operand if isinstance(expr, s.Unary) else expr
        if not isinstance(name, s.Name) or (isinstance(expr, s.Unary) and not negative):
            raise fail(
                "E0702",
                "`monitor` names what is watched",
                expr.span,
                help="like `monitor = test_accuracy`",
            )
        own = name.id in measured_names(losses, SPLITS)
        return Monitor(name.id, negative or own, name.span, own)

    def better(self, value: float, best: float | None) -> bool:
        """Whether `value` is a new best."""
        # Strictly: of equal epochs the earlier one is kept, and patience runs on.
        return best is None or (value < best if self.less else value > best)

    def __str__(self) -> str:
        return f"-{self.name}" if self.less and not self.loss else self.name


def measured_names(measures: Iterable[str], splits: Iterable[str]) -> list[str]:
    """The names of the values that are measured after an epoch: of the losses and metrics, given
    the splits."""
    names = [*measures]
    # The order of columns: training without a prefix, then validation, then test.
    prefixes = ["", *(f"{split}_" for split in SPLITS if split in splits)]
    return [prefix + name for prefix in prefixes for name in names]


def check_measured(
    conditions: Iterable[Condition],
    monitor: Monitor | None,
    known: Sequence[str],
    private: bool = False,
) -> None:
    """UserError E0702 for every name in `until` and `monitor` that is not among the measured. In
    `private` training `epsilon` is known, too."""
    counted = ["epoch", "step", *(["epsilon"] if private else [])]
    report = Report()
    for condition in conditions:
        for name, span in condition.names.items():
            # `epoch` and `step` may end a run, but are no measure of how good it is.
            _check(name, span, [*known, *counted], report)
    if monitor is not None:
        _check(monitor.name, monitor.span, known, report)
    report.check()


def _check(name: str, span: Span | None, known: Sequence[str], report: Report) -> None:
    if name in known:
        return
    # `test_loss` without a test set: the name is right, and the set is what is missing.
    split = next((p for p in SPLITS if name.startswith(f"{p}_")), "")
    absent = f"there is no {split} set: `{name.removeprefix(f'{split}_')}` is of the training set"
    if name == "epsilon":
        advice = "it is what private training spends: `private = dp(clip = 1.0, noise = 1.1, …)`"
        report.add("E0702", "`epsilon` is not measured", span, help=advice)
        return
    is_missing = bool(split) and name.removeprefix(f"{split}_") in known
    report.add(
        "E0702",
        f"`{name}` is not measured",
        span,
        help=absent
        if is_missing
        else did_you_mean(name, known) or f"measured are {', '.join(known)}",
    )
