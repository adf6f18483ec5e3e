"""What can be seen of a model: layers, what the compiler makes of it, curves of its training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from .errors import boundary
from .state import ModelState
from .texts import Text

if TYPE_CHECKING:
    from .curves import Curves
    from .pages import ExploredPage


class InspectedModel(ModelState):
    """A model, to be looked at."""

    def _repr_html_(self) -> str:
        from .html import html_of  # notebooks alone

        return html_of(self)

    @boundary
    def summary(self) -> Text:
        """The layers with the shapes of their results, their parameters and operations, and the
        memory that one batch needs; sizes are those of the data that it was trained on. Raises
        UserError if a size is not known."""
        from ..inspect.summary import MEMORY_BYTES, summarize  # not for training

        device = self._compute.device if self._compute.device in MEMORY_BYTES else "cpu"
        return Text(summarize(self._project, self._setup(), device).text())

    @boundary
    def compile(self, emit: str = "equations", *, without: Sequence[str] = ()) -> Text:
        """What the compiler makes of the program, as `nnc compile --emit`: `ast`, `equations`,
        `gradients`, `kernels`, `loops`, `llvm`, `asm`, `cuda`, `ptx`. `without` names passes to
        leave out. Raises UserError E0704 for another stage or pass."""
        from .compiled import compiled  # not for training

        return Text(compiled(self._project, self._setup(), emit, without))

    @boundary
    def explore(self, *, profile: bool = False) -> ExploredPage:
        """The program at every stage, from the source to machine code, linked line by line, as
        `nnc explore` shows it: a notebook shows the page, `.save("model.html")` writes it. With
        `profile` the training step is run on random numbers, and lines have their times. Raises
        UserError if a size is not known, E0707 for a profile of what is not trained."""
        from .pages import explored  # not for training

        return explored(self, profile)

    @boundary
    def plot(
        self,
        metrics: str | Sequence[str] = (),
        *,
        against: Literal["step", "epoch", "time"] = "step",
        smooth: float = 0.0,
        log: bool = False,
    ) -> Curves:
        """The curves of the last `fit`, or of the run that it was loaded from, as `nnc plot` draws
        them: of all `metrics`, or of some by name or pattern (`"*_loss"`). A notebook shows them;
        `.save("curves.png")` writes a file, `.figure` is one of matplotlib.

        Raises UserError E0740 for what was not measured, E0741 without matplotlib.
        """
        from ..inspect.curves import Choice
        from .curves import curves  # matplotlib

        names = (metrics,) if isinstance(metrics, str) else tuple(metrics)
        if against not in ("step", "epoch", "time"):
            raise ValueError(
                f"no curves are drawn against {against!r}; there are step, epoch, time"
            )
        return curves(self, Choice(names, against, smooth, log))
