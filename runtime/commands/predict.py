"""`nnc predict`: a trained model, or a part of it, applied to arrays.

In: the command line, a run folder, arrays on disk. Out: arrays or rows on disk. The work is done in
`inference/`.
"""

from __future__ import annotations

import click

from ..data.formats.array_file import read_arrays
from ..inference.predict import Request
from ..inference.predict import predict as predict_arrays
from ..inference.result_files import check_ending, write_results
from ..project import open_project, setup_of
from ..training.executor import Executor
from ..training.progress import notify
from ..training.run_folder import RunFolder
from . import options as o
from .report import print_diagnostics


@click.command(short_help="Apply a trained model to arrays.")
@click.argument("run_folder", metavar="RUN", type=o.FILE)
@o.option_group(
    click.option(
        "--input",
        "input_file",
        type=o.FILE,
        metavar="X.npy",
        help="One array .npy, or several by name .npz.",
    ),
    click.option(
        "--output",
        "output_file",
        type=o.FILE,
        required=True,
        metavar="Y.npy",
        help="Where the result goes: .npy, .csv, .jsonl; .npz for several by name.",
    ),
    click.option(
        "--model",
        metavar="NAME",
        default="",
        help="A model or layer in the trained one, by itself; its inputs are then those of X.",
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
    o.device_option,
    o.threads_option,
    o.verify_option,
)
def predict(
    run_folder, input_file, output_file, model, tensors, seed, device_name, threads
) -> None:
    """Apply the model of RUN to the examples of an array."""
    check_ending(output_file)
    folder = RunFolder(run_folder)
    notes = folder.settings
    project = open_project(folder.model)
    setup = setup_of(project, folder.fields, notes["examples"])
    executor = Executor(setup, o.device(device_name, threads), project.settings.seed)
    request = Request(model, tuple(dict.fromkeys(tensors)), seed)
    given = read_arrays(input_file) if input_file else {}
    executor.take(folder.read_weights(executor.weight_forms()))
    print_diagnostics(folder.complete_as_reader())
    results = predict_arrays(executor, given, str(input_file or "the command line"), request)
    write_results(output_file, results)
    for name, result in results.items():
        notify(f"{name}: {result.dtype}{list(result.shape)} in {output_file}")
