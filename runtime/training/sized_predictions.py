"""Which program serves a prediction for other sizes: one for all of them, where the train block
declares a maximum (`T <= 512`), as long as it is the program that these sizes have.

In: a `Setup`, and selections with sizes. Out: the system for any of them, or none. Tests:
tests/runtime/test_any_length.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ...compiler.elaboration.selection import Selection
from ...compiler.elaboration.train_block import Setup
from ...compiler.ir.dynamic_sizes import DynamicSystem, NotDynamic
from ...compiler.programs import any_sizes, sized
from ..compiling import compiling
from ..project import with_batch


class SizedPredictions:
    """The systems for any sizes of one setup, each made when it is first needed."""

    def __init__(self, setup: Setup):
        self.setup = setup
        self._systems: dict[tuple[Selection, int], DynamicSystem | None] = {}
        self._served: dict[Selection, bool] = {}

    def for_all(self, selection: Selection) -> Selection:
        """The selection whose program serves this one: that for the greatest sizes, or itself."""
        greatest = tuple(self.setup.limits.items())
        if not selection.sizes or not self._is_served(selection):
            return selection
        return replace(selection, sizes=greatest)

    def sizes(self, selection: Selection) -> Mapping[str, int]:
        """The sizes of the runs of the program for all, where it serves the selection."""
        served = selection.sizes and self._is_served(selection)
        return dict(selection.sizes) if served else {}

    def system(self, selection: Selection, batch: int) -> DynamicSystem | None:
        """What is selected for a batch, of any sizes."""
        key = replace(selection, sizes=()), batch
        if key not in self._systems:
            with compiling():
                if key not in self._systems:
                    try:
                        self._systems[key] = any_sizes(with_batch(self.setup, batch), key[0])
                    except NotDynamic:
                        self._systems[key] = None
        return self._systems[key]

    def _is_served(self, selection: Selection) -> bool:
        if selection not in self._served:
            with compiling():
                found = self.system(selection, self.setup.batch)
                # What is elaborated for these sizes decides: sizes may be written in conditions.
                self._served[selection] = found is not None and found.matches(
                    sized(self.setup, selection), dict(selection.sizes)
                )
        return self._served[selection]
