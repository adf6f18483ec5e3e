"""`nnc attribute`, which asks a trained model what its results are due to."""

from __future__ import annotations

from typing import Any

import click

from ..commands import options as o


class Sizes(click.ParamType):
    """A size for each dimension: `3`, `3,3,1` or `3x3`."""

    name = "sizes"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        parts = str(value).replace("x", ",").split(",")
        if not all(part.strip().isdecimal() and int(part) for part in parts):
            self.fail(f"{value!r} is not a size such as 3 or 3,3,1.", param, ctx)
        return tuple(map(int, parts))


@click.command(
    short_help="Show what a trained model's result is due to.",
    epilog=o.examples(
        "nnc attribute runs/cats photo.jpg --to maps",
        "nnc attribute runs/digits --example 12 --method grad-cam --at conv2 --to maps",
        "nnc attribute runs/houses new.csv --method shapley",
        'echo "what a film" | nnc attribute runs/reviews - --of positive --to maps',
    ),
)
@click.argument("run_folder", metavar="RUN", type=o.FILE)
@click.argument("inputs", metavar="[INPUT]...", nargs=-1)
@o.option_group(
    click.option(
        "--input", "input_files", type=o.FILE, multiple=True, metavar="FILE", help="As INPUT."
    ),
    click.option(
        "--example",
        "numbers",
        type=click.IntRange(min=0),
        multiple=True,
        metavar="N",
        help="In place of INPUT: example N of the run's test data, or else of its training data.",
    ),
    click.option(
        "--method",
        default="integrated-gradients",
        show_default=True,
        metavar="NAME",
        help="saliency, input-x-gradient, integrated-gradients, smooth-gradient, occlusion, "
        "grad-cam, shapley, attention.",
    ),
    click.option(
        "--of",
        metavar="CLASS",
        help="A class by name or number, or a place such as 3,4,0.  [default: what is predicted]",
    ),
    click.option(
        "--at",
        metavar="NAME",
        help="Another input, or a layer or tensor of the model in place of the input.",
    ),
    click.option(
        "--baseline",
        default="zero",
        show_default=True,
        metavar="WHAT",
        help="What stands for nothing: zero, mean (of the training data), blur, a number, a file.",
    ),
    click.option(
        "--steps", type=o.POSITIVE, default=64, show_default=True, help="Of integrated-gradients."
    ),
    click.option(
        "--noise",
        type=o.FiniteFloat(min=0),
        default=0.1,
        show_default=True,
        help="Of smooth-gradient: its deviation, as a share of the range of the input.",
    ),
    click.option(
        "--samples",
        type=o.POSITIVE,
        help="Noisy copies, or random orders of shapley.  [default: 50; 25, and none up to 12 "
        "features]",
    ),
    click.option(
        "--window",
        type=Sizes(),
        metavar="N[,N…]",
        help="Of occlusion, in each dimension; the patches of shapley.",
    ),
    click.option("--stride", type=Sizes(), metavar="N[,N…]", help="By which the window moves."),
    click.option("--result", metavar="NAME", help="Which of several results."),
    click.option("--position", type=int, metavar="N", help="Which step of a sequence of classes."),
    click.option(
        "--randomise",
        is_flag=True,
        help="Draw the weights anew, layer by layer, and compare the maps: they should change.",
    ),
    click.option(
        "--to", type=o.FILE, metavar="DIR", help="Write maps as .npy, pictures and pages there."
    ),
    click.option("--invert", is_flag=True, help="Take light for dark in images."),
    o.data_option,
    o.offline_option,
    click.option(
        "--seed", type=click.IntRange(min=0, max=2**31 - 1), help="Of noise and random orders."
    ),
    o.device_option,
    o.threads_option,
    o.verify_option,
)
def attribute(**given: Any) -> None:
    """Say how much each part of an INPUT contributes to a number of RUN's model: its class, or
    another one.

    INPUT is what `nnc predict` takes. Every map comes with its check: by how much it fails to add
    up to what it explains, and how fast the score falls when what it marks is deleted. A table on a
    terminal, a line of JSON for each example in a pipe."""
    from ..commands.attribute import attribute as run

    run(**given)
