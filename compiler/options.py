"""What a compilation may be asked for, whatever the target."""

from __future__ import annotations

from ..dsl.records import record


@record
class Options:
    """What a compilation may be asked for; part of the key of every cache.

    Without `share_memory` no two tensors share a place, so that all that was stored can be looked
    at after a run. `without` are names of passes to leave out. `values` are the places of params
    and states in a memory of their own, name and byte each; without any they are in the arena.
    """

    share_memory: bool = True
    without: frozenset[str] = frozenset()
    values: tuple[tuple[str, int], ...] = ()


DEFAULT = Options()
