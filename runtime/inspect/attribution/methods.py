"""The methods of attribution: which functions of the library make the points at which the model is
evaluated, and which make the map of the scores there.

In: the shape of one example, and options. Out: lines of a program in the language (`program.py`).
What a method computes stands in `dsl/stdlib/attribution.nn`; here are only its name and its sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod

from ....dsl.diagnostics.diagnostic import did_you_mean, fail

EXACT_FEATURES = 12  # of which all 2^12 subsets are evaluated
MOST = 1_000_000
ORDERS, DRAWS = 25, 50  # random ones, unless others are asked for
CURVE = 20  # steps of a deletion curve
BLOCK = 4  # dimensions that windows are moved along


@dataclass(frozen=True)
class Options:
    """What the methods can be told. `window` and `stride` have a number for each dimension of an
    example, `samples` is that of noisy copies, or of random orders; None where the method's own
    default holds."""

    steps: int = 64
    noise: float = 0.1
    samples: int | None = None
    window: tuple[int, ...] | None = None
    stride: tuple[int, ...] | None = None

    def check(self) -> None:
        """UserError E0750 for numbers that no method takes."""
        least: dict[str, tuple[float | None, int]] = {
            "steps": (self.steps, 1),
            "samples": (self.samples, 1),
        }
        least |= {"noise": (self.noise, 0)}
        for name, (value, limit) in least.items():
            if value is not None and not limit <= value < MOST:
                raise fail("E0750", f"`{name}` is at least {limit}, and not {value}")


@dataclass(frozen=True)
class Lines:
    """A method for examples of one shape: the equations of its `count` points and those of its
    map, with the values of the names in braces."""

    points: str
    map: str
    count: int


@dataclass(frozen=True)
class Method:
    """A method; `lines` gives its equations for examples of a shape and so many features.

    It reads the `options` of these names. Its map `adds_up` to the score less that of the baseline;
    it has `windows`, or `features`, which are groups of an example's numbers; it looks at a feature
    map where it `is_inside`; one of `attention` has no equations, as the model's own tensors are
    its maps."""

    name: str
    what: str
    lines: Callable[[tuple[int, ...], Options, int], Lines]
    options: tuple[str, ...] = ()
    adds_up: bool = False
    windows: bool = False
    features: bool = False
    is_inside: bool = False
    attention: bool = False


def _at_the_point(function: str) -> Callable[[tuple[int, ...], Options, int], Lines]:
    """A gradient at the example itself."""
    return lambda shape, options, features: Lines(
        "points = repeated(x, 1)", f"map = {function}(score, points)", 1
    )


def _path(shape: tuple[int, ...], options: Options, features: int) -> Lines:
    return Lines(
        f"points = straight_path(x, baseline, {options.steps})",
        "map = integrated_gradients(score, points, x, baseline)",
        options.steps,
    )


def _noise(shape: tuple[int, ...], options: Options, features: int) -> Lines:
    count = options.samples or DRAWS
    return Lines(
        f"points = noisy(x, {count}, {options.noise!r})",
        "map = smooth_gradient(score, points)",
        count,
    )


def _windows(shape: tuple[int, ...], options: Options, features: int) -> Lines:
    assert options.window is not None and options.stride is not None
    pairs = zip(shape, options.window, options.stride, strict=True)
    counts = [-(-(size - window) // stride) + 1 for size, window, stride in pairs]
    places = ", ".join(str([*one]) for one in (counts, options.window, options.stride))
    return Lines(
        f"points = occluded(x, baseline, {places})",
        f"map = occlusion(score, scores[{prod(counts)}], x, {places})",
        prod(counts),
    )


def _shapley(shape: tuple[int, ...], options: Options, features: int) -> Lines:
    if features <= EXACT_FEATURES and options.samples is None:
        return Lines(
            f"points = coalitions(x, baseline, group, {features})",
            f"map, _ = shapley(score, group, {features})",
            2**features,
        )
    orders = options.samples or ORDERS
    return Lines(
        f"order = orders({features}, {orders})\n    points = joining(x, baseline, group, order)",
        "map, _ = sampled_shapley(score, group, order)",
        orders * (features + 1),
    )


def _curves(shape: tuple[int, ...], options: Options, features: int) -> Lines:
    names = (f"x, baseline, group, {CURVE}", f"baseline, x, group, {CURVE}")
    deletion, insertion = (f"deleted({given})" for given in names)
    return Lines(
        f"points = concat({deletion}, {insertion}, axis = 0)", "map = out", 2 * (CURVE + 1)
    )


def _none(shape: tuple[int, ...], options: Options, features: int) -> Lines:
    raise AssertionError("attention has no points")


METHODS: Mapping[str, Method] = {
    method.name: method
    for method in (
        Method("saliency", "the size of the gradient", _at_the_point("saliency")),
        Method(
            "input-x-gradient", "the input times the gradient", _at_the_point("input_x_gradient")
        ),
        Method(
            "integrated-gradients", "along the way from a baseline", _path, ("steps",), adds_up=True
        ),
        Method(
            "smooth-gradient",
            "the mean gradient of noisy copies (SmoothGrad)",
            _noise,
            ("noise", "samples"),
        ),
        Method(
            "occlusion", "what a covered window costs", _windows, ("window", "stride"), windows=True
        ),
        Method("grad-cam", "places of a feature map", _at_the_point("grad_cam"), is_inside=True),
        Method(
            "shapley",
            "Shapley values of features",
            _shapley,
            ("samples", "window"),
            adds_up=True,
            features=True,
        ),
        Method("attention", "what each position attends to", _none, attention=True),
    )
}
# The deletion and the insertion curve of a map. In place of groups each element has the step at
# which it is deleted; what is found are the results at every step of both curves.
CURVES = Method("curves", "deletion and insertion", _curves, features=True)
# what other libraries and papers call them
ALIASES = {
    "gradient": "saliency",
    "inputxgradient": "input-x-gradient",
    "input-times-gradient": "input-x-gradient",
    "ig": "integrated-gradients",
    "smoothgrad": "smooth-gradient",
    "gradcam": "grad-cam",
    "shap": "shapley",
    "shapley-values": "shapley",
    "attention-maps": "attention",
}


def find_method(name: str) -> Method:
    """The method of this name, in any spelling; UserError E0750 if there is none."""
    plain = name.strip().lower().replace("_", "-").replace(" ", "-").replace("×", "x")
    found = METHODS.get(ALIASES.get(plain, plain))
    if found is None:
        near = did_you_mean(plain, [*METHODS, *ALIASES])
        help = f"{near} there are {', '.join(METHODS)}".strip()
        raise fail("E0750", f"there is no method `{name}`", help=help)
    return found
