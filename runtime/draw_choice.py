"""`draw = …` in a train block: how often an epoch draws each example.

    draw = balanced(label)   every class of the field as often as the others
    draw = weight            in proportion to a field of the data

In: an expression, then the data. Out: the weights of all training examples.
`training/batch_inputs.py` draws by them.
"""

from __future__ import annotations

from ..compiler.ir.dtypes import is_float
from ..compiler.ir.lazy_numpy import np
from ..dsl.diagnostics.diagnostic import UserError, did_you_mean, fail
from ..dsl.records import record
from ..dsl.syntax import ast as s
from ..dsl.syntax.source import Span
from .data import Schema, Split

BALANCED = "balanced"
LIKE = "like `draw = balanced(label)`, or `draw = weight` for a field of weights"


@record
class DrawChoice:
    """The field of the data that examples are drawn by: labels that are `balanced`, or weights."""

    field: str
    balanced: bool
    span: Span

    @staticmethod
    def read(value: s.Expr) -> DrawChoice:
        """UserError E0703 if the expression is neither the name of a field nor `balanced(…)`."""
        match value:
            case s.Name(id=name, primed=False):
                return DrawChoice(name, False, value.span)
            case s.Call(
                function=s.Name(id=function),
                arguments=(s.Argument(name=None, value=s.Name(id=name, primed=False) as field),),
            ) if function == BALANCED:
                return DrawChoice(name, True, field.span)
        raise fail(
            "E0703", "`draw` is a field of the data, or `balanced` of one", value.span, help=LIKE
        )

    @property
    def text(self) -> str:
        """As a program has it."""
        return f"{BALANCED}({self.field})" if self.balanced else self.field

    def check(self, schema: Schema) -> None:
        """UserError E0703 unless the data have such a field, with one number for each example."""
        try:
            field = schema.field(self.field)
        except KeyError:
            names = [field.name for field in schema.fields]
            help = (
                did_you_mean(self.field, names) or f"they have {', '.join(f'`{n}`' for n in names)}"
            )
            raise fail("E0703", f"the data have no `{self.field}`", self.span, help=help) from None
        if any(size != 1 for size in field.shape):
            raise self._wrong(f"`{field}` is more than one number for each example")
        if self.balanced and is_float(field.dtype):
            raise self._wrong(f"classes are whole numbers, and `{self.field}` is {field.dtype}")

    def weights(self, split: Split) -> np.ndarray:
        """f64 [n]: the weight of every example. UserError E0703 for numbers that are no weights."""
        values = np.asarray(split.arrays[self.field]).reshape(-1)
        if self.balanced:
            return balanced_weights(values)
        found = values.astype(np.float64)
        wrong = np.flatnonzero(~(np.isfinite(found) & (found >= 0)))
        if len(wrong):
            at, number = wrong[0], found[wrong[0]]
            raise self._wrong(f"weights are 0 or more, and that of example {at} is {number}")
        if not found.any():
            raise self._wrong(f"all of `{self.field}` are 0: no example is left to train on")
        return found

    def _wrong(self, message: str) -> UserError:
        return fail("E0703", message, self.span, help=LIKE)


def balanced_weights(labels: np.ndarray) -> np.ndarray:
    """f64 [n]: the weight of every example by its label [n], so that each of the classes that occur
    has the same in all, and all examples together n."""
    classes, numbers, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return (len(labels) / (len(classes) * counts))[numbers]
