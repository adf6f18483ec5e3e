"""Commands that look at what a program becomes, without training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from ..commands import options as o
from ..inspect.stages import ENDINGS
from ..inspect.tolerance import TOLERANCE


def _compiled_device(help: str) -> Callable:
    """`--device` of what looks at compiled code: there is none for the reference evaluator."""
    return click.option(
        "--device",
        "device_name",
        type=click.Choice(["cpu", "cuda"]),
        default="cpu",
        show_default=True,
        help=help,
    )


@click.command(
    epilog=o.examples(
        "nnc compile model.nn --emit gradients",
        "nnc compile model.nn --emit llvm=model.ll,kernels",
        "nnc compile model.nn --print-changed=diff",
        "nnc compile runs/digits --weights int8 --emit equations,kernels",
    )
)
@o.program
@o.option_group(
    click.option(
        "--emit",
        "emits",
        multiple=True,
        metavar="STAGE[=PATH],…",
        help=f"What to print: {', '.join(ENDINGS)}.",
    ),
    click.option("--without", multiple=True, metavar="PASS,…", help="Passes to leave out."),
    click.option(
        "--print-after",
        multiple=True,
        metavar="PASS,…",
        help="Print what these passes made, to stderr; `all` for every pass.",
    ),
    click.option(
        "--print-changed",
        is_flag=False,
        flag_value="full",
        type=click.Choice(["full", "diff"]),
        help="Print what each pass changed, to stderr: all that it made, or the lines.",
    ),
    click.option("--time-passes", is_flag=True, help="Print the time of each pass, to stderr."),
    o.weights_option,
    o.calibrate_option,
    o.verify_option,
)
def compile(**given: Any) -> None:
    """Print what the compiler makes of FILE at the stages asked for.

    One stage goes to stdout, several to files beside FILE's name: NAME.STAGE.ENDING. Without
    --emit, the passes for the CPU run and only what --print-… and --time-passes ask for is
    printed."""
    from ..commands.compile import compile as run

    run(**given)


@click.command(epilog=o.examples("nnc summary model.nn --batch 64"))
@o.program
@o.option_group(
    _compiled_device("Whose memory is planned; it need not be there."),
    o.verify_option,
)
def summary(**given: Any) -> None:
    """List the layers of FILE's model and those in them: shapes, parameters, operations, and the
    memory it needs.

    Operations are those of the sums of products for one batch, forward and backward: 2 per
    multiply-add. Memory is that of a program of the model, and of the process besides."""
    from ..commands.compile import summary as run

    run(**given)


@click.command(
    short_help="Draw the layers or the equations of a model.",
    epilog=o.examples(
        "nnc graph model.nn --output model.svg",
        "nnc graph runs/digits --equations --output equations.svg",
        "nnc graph model.nn --emit dot | dot -Tpdf > model.pdf",
    ),
)
@o.program
@o.option_group(
    click.option("--equations", is_flag=True, help="Every equation and parameter, not the layers."),
    click.option(
        "--depth",
        type=click.IntRange(min=0),
        metavar="N",
        help="Open layers in layers N deep at most; 0 shows the model's own alone.",
    ),
    click.option("--emit", type=click.Choice(["svg", "dot"]), help="Print this to stdout."),
    click.option(
        "--output",
        "output_file",
        type=o.FILE,
        metavar="FILE",
        help="Write a file: .svg, or .dot for Graphviz.",
    ),
)
def graph(**given: Any) -> None:
    """Draw the model of FILE, or of a run folder, with the sizes of what goes from layer to layer.

    On a terminal the picture goes to NAME.svg, elsewhere to stdout."""
    from ..commands.graph import graph as run

    run(**given)


@click.command(
    short_help="A page with a program at every stage, side by side.",
    epilog=o.examples(
        "nnc explore model.nn --open",
        "nnc explore model.nn --profile --output model.html",
        "nnc explore runs/digits --device cuda --output digits.html",
    ),
)
@o.program
@o.option_group(
    click.option("--profile", "timed", is_flag=True, help="Run it, and show the time of lines."),
    click.option(
        "--steps",
        type=o.POSITIVE,
        default=50,
        show_default=True,
        help="Steps timed with --profile.",
    ),
    o.threads_option,
    _compiled_device("Whose code is shown; it need not be there but for --profile."),
    click.option(
        "--output", "output_file", type=o.FILE, metavar="FILE", help="Write a file: .html."
    ),
    click.option("--open", "opened", is_flag=True, help="Open the page in a browser."),
    o.verify_option,
)
def explore(**given: Any) -> None:
    """Make a page of FILE's program, or of a run's, at every stage: source, equations, gradients,
    kernels, loops, LLVM, assembly, and the plan of memory.

    Point at a line anywhere, and what comes from the same line of the source is lit everywhere. The
    page is one file and needs no network. On a terminal it goes to NAME.html, elsewhere to
    stdout."""
    from ..commands.explore import explore as run

    run(**given)


@click.command(epilog=o.examples("nnc bench model.nn --batch 128 --threads 2 --json"))
@o.program
@o.option_group(
    click.option("--steps", type=o.POSITIVE, default=50, show_default=True, help="Steps timed."),
    o.device_option,
    o.threads_option,
    o.verify_option,
    click.option("--json", "as_json", is_flag=True, help="One JSON object."),
)
def bench(**given: Any) -> None:
    """Time the training step of FILE's model on random numbers of the right shapes."""
    from ..commands.bench import bench as run

    run(**given)


@click.command(epilog=o.examples("nnc profile model.nn --kernels --sort time"))
@o.program
@o.option_group(
    click.option("--steps", type=o.POSITIVE, default=50, show_default=True, help="Steps timed."),
    click.option("--kernels", is_flag=True, help="Kernel by kernel instead of line by line."),
    click.option(
        "--sort",
        type=click.Choice(["source", "time"]),
        default="source",
        show_default=True,
        help="The order of the rows.",
    ),
    _compiled_device("What it runs on."),
    o.threads_option,
    o.verify_option,
    click.option("--json", "as_json", is_flag=True, help="One JSON object with everything."),
)
def profile(**given: Any) -> None:
    """Show where the time of a training step of FILE goes, line by line, on random numbers of the
    right shapes.

    Milliseconds forward, backward and in the update; the speed of products, and how much of the
    most that this computer can do that is; and the bytes that kernels read and write. On a GPU, the
    speed at which they do that, and how much of that of its memory it is."""
    from ..commands.profile import profile as run

    run(**given)


@click.command(epilog=o.examples("nnc verify model.nn --samples 5"))
@o.program
@o.option_group(
    o.threads_option,
    click.option(
        "--seed",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        help="Of the numbers that the model is given.",
    ),
    click.option(
        "--samples",
        type=click.IntRange(min=0),
        default=2,
        show_default=True,
        help="Elements of every gradient looked at one by one, after all at once.",
    ),
    click.option(
        "--tolerance",
        type=o.FiniteFloat(min=0, min_open=True),
        default=TOLERANCE,
        show_default=True,
        help="How far off, relative to the numbers at work. f32 rounds "
        "by 6e-8, and the roundings of a long sum add up to some 1e-6.",
    ),
    click.option("--json", "as_json", is_flag=True, help="One JSON object with everything."),
)
def verify(**given: Any) -> None:
    """Compare FILE's machine code with the reference evaluator and its gradients with finite
    differences, equation by equation.

    The numbers are random; no data is read. Exit code 1 if anything is wrong."""
    from ..commands.verify import verify as run

    run(**given)
