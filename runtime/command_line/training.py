"""Commands on runs: what trains, and what uses what was trained."""

from __future__ import annotations

from typing import Any

import click

from ..commands import options as o


@click.command(
    short_help="Train a model.",
    epilog=o.examples(
        "nnc train examples/cnn_digits.nn --out runs/digits",
        "nnc train model.nn --epochs 3 --set optimizer.lr=1e-3",
        "nnc train model.nn --set optimizer.lr=1e-2,1e-3 --set batch=32,64 --out sweep",
        "nnc train --resume runs/digits",
    ),
)
@click.argument("file", type=o.FILE, required=False)
@o.option_group(
    o.data_option,
    o.offline_option,
    o.set_option,
    click.option("--epochs", type=o.POSITIVE, help="Times through the data, at most."),
    click.option("--steps", type=o.POSITIVE, help="Steps in all, at most."),
    o.batch_option,
    click.option("--validate-every", type=o.POSITIVE, metavar="N", help="Validate, in steps."),
    click.option("--log-every", type=o.POSITIVE, metavar="N", help="Record, in steps."),
    click.option("--checkpoint-every", metavar="N|TIME", help="In steps, or such as 10min."),
    click.option("--max-time", metavar="TIME", help="Save and stop after a time such as 2h."),
    click.option("--seed", type=click.IntRange(min=0), help="Of first weights and all chance."),
    o.model_option,
    o.device_option,
    o.threads_option,
    o.verify_option,
    click.option("--out", type=o.FILE, metavar="RUN", help="The run folder, new or empty."),
    click.option("--resume", type=o.FILE, metavar="RUN", help="Go on with an interrupted run."),
    click.option("--init", metavar="RUN", help="Begin with the weights of a run, or of a file."),
    click.option("--partial", is_flag=True, help="With --init: with those weights that fit."),
    click.option("--tensorboard", type=o.FILE, metavar="DIR", help="Write for TensorBoard, too."),
    click.option("--track", metavar="PROJECT", help="Write to a project of trackio, too."),
)
def train(**given: Any) -> None:
    """Train the model of FILE as its train block says.

    Several values in --set, separated by commas, are a sweep: a run for each combination, and a
    table at the end. The same command again goes on with it."""
    from ..commands.train import train as run

    run(**given)


@click.command(
    "eval",
    short_help="Measure a trained model on its data.",
    epilog=o.examples(
        "nnc eval runs/digits",
        "nnc eval runs/digits --worst 12 --pictures worst.png",
        "nnc eval runs/digits --json | jq .test_accuracy",
    ),
)
@click.argument("run_folder", metavar="RUN", type=o.FILE)
@o.option_group(
    o.data_option,
    o.offline_option,
    click.option(
        "--worst",
        type=click.IntRange(min=0),
        default=8,
        show_default=True,
        help="How many of the examples that are most wrong are listed.",
    ),
    click.option(
        "--pictures",
        type=o.FILE,
        metavar="FILE",
        help="Draw them, if inputs are images: .png, .svg.",
    ),
    click.option("--json", "as_json", is_flag=True, help="One JSON object, as in a pipe."),
    o.weights_option,
    o.calibrate_option,
    o.device_option,
    o.threads_option,
    o.verify_option,
)
def evaluate_run(**given: Any) -> None:
    """Measure the weights of RUN on the validation and test data, or else the training data.

    Of classes: the confusion matrix, precision, recall and F1, calibration; of numbers: R² and
    residuals; of text: perplexity; and the examples that are most wrong. Tables on a terminal, JSON
    elsewhere."""
    from ..commands.evaluate import evaluate_run as run

    run(**given)


@click.command(
    short_help="Draw the loss and the metrics of runs.",
    epilog=o.examples(
        "nnc plot runs/digits", 'nnc plot runs/a runs/b --metric "*_loss" --output curves.png'
    ),
)
@click.argument("runs", metavar="RUN…", type=o.FILE, nargs=-1, required=True)
@o.option_group(
    click.option(
        "--metric",
        "metrics",
        multiple=True,
        metavar="NAME,…",
        help="What to draw, by name or pattern (`*_loss`); all of it by default.",
    ),
    click.option(
        "--against",
        type=click.Choice(["step", "epoch", "time"]),
        default="step",
        show_default=True,
        help="What runs along the axis.",
    ),
    click.option(
        "--smooth",
        type=click.FloatRange(0, 1, max_open=True),
        default=0.0,
        metavar="WEIGHT",
        help="A moving average; WEIGHT is that of the past: 0.9 is much.",
    ),
    click.option("--log", is_flag=True, help="A logarithmic axis of values."),
    click.option(
        "--output",
        "output_file",
        type=o.FILE,
        metavar="FILE",
        help="Draw a file: .png, .svg, .html.",
    ),
)
def plot(**given: Any) -> None:
    """Draw what was measured while the RUNs were trained: in the terminal, or as a file.

    Several runs are compared. One that is training now is drawn as far as it has come."""
    from ..commands.plot import plot as run

    run(**given)


@click.command(
    short_help="Apply a trained model to files or arrays.",
    epilog=o.examples(
        "nnc predict runs/cats photo.jpg more/",
        "nnc predict runs/cats 'pics/*.png' --top 5 --output found.csv",
        "nnc predict runs/houses new.csv",
        "nnc predict runs/words one.wav two.wav",
        'echo "what a film" | nnc predict runs/reviews -',
        "nnc predict runs/digits --input images.npy --output digits.npy",
        "nnc predict runs/voice --model Speech --input words.npz --output words.wav",
    ),
)
@click.argument("run_folder", metavar="RUN", type=o.FILE)
@click.argument("inputs", metavar="[INPUT]...", nargs=-1)
@o.option_group(
    click.option(
        "--input",
        "array_file",
        type=o.FILE,
        metavar="X.npy",
        help="In place of INPUT: one array .npy, or several by name .npz.",
    ),
    click.option(
        "--output",
        "output_file",
        type=o.FILE,
        metavar="Y.csv",
        help="Where the result goes, in place of standard output: .csv, .jsonl, .parquet; or as "
        "the model computes it, .npy for one array, .npz for several by name, .wav for sounds.",
    ),
    click.option(
        "--rate",
        type=o.POSITIVE,
        metavar="N",
        help="Samples per second of a .wav.  [default: those of the sounds that trained]",
    ),
    click.option(
        "--top",
        type=o.POSITIVE,
        metavar="K",
        help="The K likeliest classes of each example.  [default: 3 on a terminal, else all]",
    ),
    click.option(
        "--raw", is_flag=True, help="The numbers that the model computes, not what they stand for."
    ),
    click.option("--invert", is_flag=True, help="Take light for dark in images."),
    click.option(
        "--model",
        metavar="NAME",
        default="",
        help="A model or layer in the trained one, by itself; its inputs are then arrays.",
    ),
    click.option(
        "--tensor",
        "tensors",
        metavar="NAME",
        multiple=True,
        help="A tensor of the model in place of its results; may be given several times.",
    ),
    click.option(
        "--seed", type=click.IntRange(min=0, max=2**31 - 1), help="Of random numbers in the model."
    ),
    o.weights_option,
    o.calibrate_option,
    o.device_option,
    o.threads_option,
    o.verify_option,
)
def predict(**given: Any) -> None:
    """Apply the model of RUN to each INPUT: a file of the kind that it was trained on, a folder of
    such files, a pattern in quotes, arrays in .npy or .npz, or - for standard input.

    New files are read as those of training were: sizes, channels, vocabulary, normalisation and
    columns are kept in the run. Without --output, a table on a terminal, and a line of JSON for
    each example in a pipe."""
    from ..commands.predict import predict as run

    run(**given)


@click.command(
    short_help="Continue or translate a text with a trained model.",
    epilog=o.examples('nnc generate runs/gpt --prompt "ROMEO:" --temperature 0.8'),
)
@click.argument("run_folder", metavar="RUN", type=o.FILE)
@o.option_group(
    click.option(
        "--prompt",
        required=True,
        metavar="TEXT",
        help="What to continue, or to translate; `-` reads standard input.",
    ),
    click.option(
        "--length", type=o.POSITIVE, default=500, show_default=True, help="Tokens, at most."
    ),
    click.option(
        "--temperature",
        type=o.FiniteFloat(min=0),
        show_default="1, of a translation 0",
        help="Below 1 likelier tokens, 0 always the likeliest one.",
    ),
    click.option(
        "--beams",
        type=o.POSITIVE,
        metavar="K",
        help="Of a translation the likeliest as a whole, by K hypotheses at a time (beam search).",
    ),
    click.option("--top-k", type=o.POSITIVE, help="Draw from the K likeliest tokens."),
    click.option(
        "--top-p",
        type=o.FiniteFloat(0, 1, min_open=True),
        help="Draw from the likeliest tokens that make up P.",
    ),
    click.option(
        "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the draws."
    ),
    o.device_option,
    click.option(
        "--threads",
        type=o.POSITIVE,
        default=1,
        show_default=True,
        help="More pay for large models only: a token is little work.",
    ),
    o.verify_option,
)
def generate(**given: Any) -> None:
    """Continue TEXT with the model of RUN, token by token.

    A model that reads a source and writes a target turns every line of TEXT into its target."""
    from ..commands.generate import generate as run

    run(**given)


@click.command(epilog=o.examples("nnc debug runs/digits"))
@click.argument("run_folder", metavar="RUN", type=o.FILE)
def debug(**given: Any) -> None:
    """Take the step again with which RUN stopped because a value was not finite.

    By the reference evaluator, from the snapshot in RUN: the first equation that makes such a value
    from finite ones and the numbers it was given, how the value spreads, and what it would hit."""
    from ..commands.debug import debug as run

    run(**given)


@click.command(
    short_help="List and compare runs.",
    epilog=o.examples(
        "nnc runs",
        "nnc runs experiments --json",
        "nnc runs compare runs/a runs/b runs/c",
        "nnc runs diff runs/a runs/b",
    ),
)
@click.argument(
    "words", nargs=-1, metavar="[FOLDER… | compare RUN… | diff RUN RUN]", type=click.Path()
)
@click.option("--json", "as_json", is_flag=True, help="JSON instead of tables.")
def runs(**given: Any) -> None:
    """List the runs in FOLDERs and below them (`runs`, or else the current folder): how far each
    came, its best metric, date and size.

    `compare` shows runs beside each other, with the settings in which they differ. `diff` shows in
    what two differ: settings, metrics, and the text of the program."""
    from ..commands.runs import runs as run

    run(**given)
