"""`nnc predict`: a trained model, or a part of it, applied to arrays.

In: the command line, a run folder, arrays on disk. Out: arrays or rows on disk. The work is done in
`inference/`.
"""

from __future__ import annotations

from ..data.formats.array_file import read_arrays
from ..inference.predict import Request
from ..inference.predict import predict as predict_arrays
from ..inference.result_files import check_ending, write_results
from ..messages import notify
from ..project import open_project, setup_of
from ..training.executor import Executor
from ..training.run_folder import RunFolder
from . import options as o
from .report import print_diagnostics


def predict(
    run_folder, input_file, output_file, model, tensors, seed, device_name, threads
) -> None:
    """What `nnc predict` does."""
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
