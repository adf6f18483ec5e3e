"""A program at every stage, as a page that notebooks show."""

from __future__ import annotations

from html import escape
from os import PathLike
from pathlib import Path

from ...dsl.diagnostics.diagnostic import fail
from ..inspect.emit import Stages
from ..inspect.explore import ENDINGS, explore
from ..inspect.profile_on import profile_on
from ..training.atomic_files import write_text
from .errors import boundary
from .state import ModelState

STEPS = 50  # of which the quieter half counts
HEIGHT = 760  # pixels in a notebook


class ExploredPage:
    """The page of `nnc explore`. `html` is its text."""

    def __init__(self, html: str) -> None:
        self.html = html

    @boundary
    def save(self, path: str | PathLike[str]) -> None:
        """Write a file: .html. UserError E0716 for another ending, E0709 if it cannot be
        written."""
        target = Path(path)
        if target.suffix.lower() not in ENDINGS:
            raise fail("E0716", f"a page is not written as `{target.name}`", help="it is .html")
        write_text(target, self.html)

    def __repr__(self) -> str:
        return f"<page of {len(self.html) // 1000:,} kB; save(path) writes it>"

    def _repr_html_(self) -> str:
        # In a frame, so that its style and its keys are its own.
        style = f"width: 100%; height: {HEIGHT}px; border: 1px solid #8884; border-radius: 8px"
        return f'<iframe srcdoc="{escape(self.html)}" style="{style}"></iframe>'


def explored(model: ModelState, profile: bool) -> ExploredPage:
    """The page of a model's program, for the device that it is on."""
    project, setup = model._project, model._setup()
    device, threads = model._compute
    found = None
    if profile:
        assert project.block and setup is not None  # UserError E0707 for what is not trained
        found = profile_on(device, project, setup, threads, STEPS)
    return ExploredPage(explore(Stages(project, setup), device, found))
