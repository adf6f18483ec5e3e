"""What a training has measured, as a picture that notebooks show."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

from ...dsl.diagnostics.diagnostic import fail
from ..inspect.curve_pictures import check_ending, figure, picture, saved
from ..inspect.curves import Choice, History, Panel, panels, read_histories
from ..training.atomic_files import write_bytes
from .errors import boundary
from .state import ModelState


class Curves:
    """Curves, a panel for each quantity. `figure` is a `matplotlib.figure.Figure`."""

    def __init__(self, shown: list[Panel]) -> None:
        self._panels = shown
        self.figure: Any = figure(shown)

    @boundary
    def save(self, path: str | PathLike[str]) -> None:
        """Write a file: .png, .svg or .html. UserError E0716 for another ending, E0709 if it cannot
        be written."""
        check_ending(Path(path))
        write_bytes(Path(path), picture(self._panels, Path(path)))

    def _repr_svg_(self) -> str:
        return saved(self.figure, "svg").decode()


def curves(model: ModelState, choice: Choice) -> Curves:
    """The curves of the last training of a model, or of the run that it was loaded from. UserError
    E0740 if nothing was measured, E0741 without matplotlib."""
    trained = model._trained
    if trained is not None and trained.records:
        per_epoch = -(-trained.examples // trained.project.settings.batch)
        records = [record.plain() for record in trained.records]
        return Curves(panels([History(model._project.name, records, per_epoch)], choice))
    if trained is None or trained.run is None:
        raise fail(
            "E0740",
            f"`{model._project.name}` has measured nothing yet",
            help="the first values come at the end of an epoch of fit(…)",
        )
    return Curves(panels(read_histories([trained.run])[0], choice))
