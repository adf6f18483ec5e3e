"""Progress of `fit`: a bar and lines on a terminal, one output that is updated in a notebook, and
nothing in a script whose output goes elsewhere, unless it is asked for.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from html import escape
from typing import Any

from ..training.metrics import Record, format_number
from ..training.progress import Lines, Listener, Silent, make_listener
from ..training.progress_text import Plan, record_line

REFRESH = 0.2  # seconds between two updates of an output in a notebook
LISTED = 12  # epochs in the table of a notebook: the last ones


def in_notebook() -> bool:
    """Whether this is the kernel of a notebook. Imports nothing."""
    module = sys.modules.get("IPython")
    shell = module.get_ipython() if module is not None else None
    return hasattr(shell, "kernel")


def listener(verbose: bool | int | None, plan: Plan) -> Listener:
    """`verbose` None: where somebody looks, on a terminal and in a notebook; 2: lines alone."""
    if verbose is not None and not verbose:
        return Silent()
    if verbose is not None and int(verbose) > 1:
        return Lines(plan)
    if in_notebook():
        return NotebookBar(plan)
    looks = sys.stderr is not None and sys.stderr.isatty()
    return make_listener(plan) if looks or verbose else Silent()


class NotebookBar(Silent):
    """A bar and a table of the epochs in one output of a cell, which is replaced by the next."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._records: list[Record] = []
        self._next = 0.0
        self._shown: Any = None

    def step(self, epoch: int, step: int, losses: Sequence[float]) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + REFRESH
        numbers = [
            f"{n} {format_number(v)}" for n, v in zip(self._plan.losses, losses, strict=False)
        ]
        done, total = self._plan.progress(step)
        text = "  ".join([self._plan.epoch(epoch), f"step {done}/{total}", *numbers])
        bar = f'<progress value="{done}" max="{total}"></progress> {escape(text)}'
        self._show(bar, text)

    def record(self, record: Record) -> None:
        self._records.append(record)
        # At most five times a second: epochs of a small model take less.
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + REFRESH
            self._show("", record_line(record, self._plan))

    def close(self) -> None:
        if self._records:
            self._show("", record_line(self._records[-1], self._plan))
        self._shown = None

    def _show(self, bar: str, text: str) -> None:
        from IPython.display import display  # a notebook has it

        content = {
            "text/html": f"<div>{bar}{records_table(self._records)}</div>",
            "text/plain": text,
        }
        if self._shown is None:
            self._shown = display(content, raw=True, display_id=True)
        else:
            self._shown.update(content, raw=True)


def records_table(records: Sequence[Record]) -> str:
    """The last epochs as a table of HTML; empty without any."""
    if not records:
        return ""
    shown = records[-LISTED:]
    head = ["epoch", "step", *records[-1].values, "seconds"]
    rows = [
        [str(r.epoch), str(r.step), *map(format_number, r.values.values()), f"{r.seconds:.1f}"]
        for r in shown
    ]
    return html_table(head, rows)


def html_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of HTML, without styles of its own."""

    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(c)}</{tag}>" for c in cells) + "</tr>"

    body = "".join(line(row, "td") for row in rows)
    return f"<table><thead>{line(head, 'th')}</thead><tbody>{body}</tbody></table>"
