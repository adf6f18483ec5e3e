"""What must be made anew in a forked child, which has one thread and whatever the others left.

A lock that another thread held at that moment is never given back there.
"""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet


class Renewed(Protocol):
    """Something with locks."""

    def renew(self) -> None:
        """Make them anew, and forget what other threads were doing."""


_all: WeakSet[Renewed] = WeakSet()


def renew_after_fork(one: Renewed) -> None:
    """Call `renew` in every child that is forked while the object lives."""
    _all.add(one)


def _in_child() -> None:
    for one in list(_all):
        one.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
