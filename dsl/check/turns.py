"""`turns = [5 * critic, generator]`: which losses are trained in which step.

    turns = [5 * critic, generator + encoder]   →   five steps of `critic`, then one in which
                                                  `generator` and `encoder` are trained together

Without the field all losses are trained in every step, from the same weights.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..diagnostics.diagnostic import Report, did_you_mean
from ..syntax import ast as s

Turn = tuple[str, ...]  # the losses that are trained in a step

MOST_STEPS = 1000  # of one cycle


def turns(train: s.Train) -> tuple[Turn, ...]:
    """One cycle of a checked block, a turn for every step; none if all steps are alike."""
    field = _field(train)
    if field is None:
        return ()
    lets = {i.name.id: i.value for i in train.body if isinstance(i, s.Let)}
    cycle: list[Turn] = []
    for item in field.value.items if isinstance(field.value, s.List) else ():
        count, names = _parts(item, lets)
        cycle += [tuple(dict.fromkeys(name.id for name in names))] * count
    return tuple(cycle)


def check_turns(train: s.Train, report: Report) -> None:
    """E0414 for what is wrong in the field."""
    field = _field(train)
    if field is None:
        return
    losses = [loss.name.id for loss in train.losses if isinstance(loss, s.Loss)]
    if not losses:
        report.add(
            "E0414",
            "there is one loss, which is trained in every step",
            field.name.span,
            label="`turns` are of several losses",
            help="losses with names are written `loss critic for critic.* = …`",
        )
        return
    if not isinstance(field.value, s.List) or not field.value.items:
        report.add(
            "E0414",
            "`turns` is a list of losses",
            field.value.span,
            help=f"like `turns = [{', '.join(['5 * ' + losses[0], *losses[1:]])}]`",
        )
        return
    lets = {i.name.id: i.value for i in train.body if isinstance(i, s.Let)}
    seen: set[str] = set()
    length = 0
    for item in field.value.items:
        count, names = _parts(item, lets)
        length += count
        seen |= {name.id for name in names}
        _check_turn(item, count, names, losses, report)
    for name in losses:
        if name not in seen:
            report.add(
                "E0414",
                f"the loss `{name}` has no turn",
                field.value.span,
                label="its parameters would never be trained",
                help=f"add `{name}`, or leave out the loss and freeze its parameters",
            )
    if length > MOST_STEPS:
        report.add(
            "E0414",
            f"one cycle of `turns` has {length:,} steps",
            field.value.span,
            label=f"the limit is {MOST_STEPS:,}",
        )


def _check_turn(
    item: s.Expr, count: int, names: list[s.Name], losses: list[str], report: Report
) -> None:
    if not names or count < 1:
        report.add(
            "E0414",
            "a turn is a loss, with the number of its steps before it",
            item.span,
            label="this is none",
            help=f"like `{losses[0]}`, `5 * {losses[0]}` or `{' + '.join(losses[:2])}`",
        )
    for name in names:
        if name.id not in losses:
            report.add(
                "E0414",
                f"there is no loss `{name.id}`",
                name.span,
                label="a turn of it",
                help=did_you_mean(name.id, losses)
                or f"there are {', '.join(f'`{loss}`' for loss in losses)}",
            )


def _field(train: s.Train) -> s.Field | None:
    fields = (i for i in train.body if isinstance(i, s.Field))
    return next((f for f in fields if f.name.id == "turns"), None)


def _parts(item: s.Expr, lets: dict[str, s.Expr]) -> tuple[int, list[s.Name]]:
    """`5 * critic` → 5, critic; no names for what is no turn."""
    match item:
        case s.Binary(op="*", left=left, right=right):
            count = lets.get(left.id, left) if isinstance(left, s.Name) else left
            whole = count.value if isinstance(count, s.Number) else 0
            return (whole if isinstance(whole, int) else 0), [*_names(right)]
        case _:
            return 1, [*_names(item)]


def _names(item: s.Expr) -> Iterator[s.Name]:
    match item:
        case s.Name():
            yield item
        case s.Binary(op="+", left=left, right=right) if (a := [*_names(left)]) and (
            b := [*_names(right)]
        ):
            yield from (*a, *b)
