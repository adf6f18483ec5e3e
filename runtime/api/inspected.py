"""What can be seen of a model: layers, what the compiler makes of it, curves of its training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from .arguments import ARGUMENTS, check_no_arrays, seed_of
from .arrays import Arrays, named_arrays
from .errors import boundary
from .state import ModelState
from .texts import Text

if TYPE_CHECKING:
    import numpy as np

    from .arrays import Array
    from .attributed import Attributions
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

    @boundary
    def attribute(
        self,
        *arrays: Arrays,
        method: str = "integrated-gradients",
        of: str | int | None = None,
        at: str | None = None,
        baseline: float | Array | Literal["blur"] = 0.0,
        steps: int = 64,
        noise: float = 0.1,
        samples: int | None = None,
        window: int | Sequence[int] | None = None,
        stride: int | Sequence[int] | None = None,
        features: Array | None = None,
        result: str | None = None,
        position: int | None = None,
        randomise: bool = False,
        curves: bool = False,
        seed: int | None = None,
        **named: Array,
    ) -> Attributions | dict[str, np.ndarray]:
        """What each part of every example contributes to one number of the model's result: `of` a
        class by its name or number, the predicted one by default, or of a place, `"3,4,0"`.

        `method` is `saliency`, `input-x-gradient`, `integrated-gradients` (of `steps` steps from
        the `baseline`), `smooth-gradient` (of `samples` copies, with normal noise of `noise` times
        the range of an example), `occlusion` (by a `window` that moves by `stride`), `grad-cam`,
        `shapley` (of `features`, which has the number of its feature for each number of an
        example; exact for 12 at most, else of `samples` random orders), or `attention`, which gives
        attention maps by name. `at` names another input, or a tensor in the model in its place;
        tokens are attributed to by their embeddings. The baseline is a number (of tokens, that of a
        token), an example, an array of examples, or "blur", the example blurred. Of several results
        `result` names one, of a sequence `position` one step. `randomise` makes the maps again with
        weights that are drawn anew, and `curves` measures how the score falls and rises with what a
        map marks: see `Attributions`.

        Arrays, or files in their place, are those of `predict`. Raises UserError E0750 for what
        cannot be attributed, E0715 for a tensor that does not exist, and as `predict`. A map that
        should add up to the change of the score and is off by more than 1 % is warned of.
        """
        from ..inference.given_files import Given
        from ..inference.predict import Request, input_names
        from ..inspect.attribution.methods import Options
        from .attributed import attributions, sizes, wish_of
        from .files import is_files, read_files, run_of

        checked = {"method": method, "at": at, "steps": steps, "seed": seed, "result": result}
        check_no_arrays("attribute", checked, "an input")
        trained, request = self._trained, Request()
        if trained is None:
            raise self._without_parameters()
        options = Options(steps, noise, samples, sizes(window), sizes(stride))
        wish = wish_of(method, of, at, baseline, options, result, position, features, seed_of(seed))
        if is_files(arrays) and not named:
            given = read_files(run_of(trained, request), arrays)
        else:
            names = input_names(trained.executor, request)
            found: Any = named_arrays(
                "attribute", self._project.name, arrays, named, names, ARGUMENTS["attribute"]
            )
            given = Given(found, "the call")
        return attributions(trained, given, wish, randomise, curves)
