"""The mistakes that a run can meet: one row per code, for the catalogue of `nnc explain`.

In: nothing. Out: `RUN_ERRORS`. This file raises nothing; the runtime's other files do.
"""

from __future__ import annotations

from .data.core.error_codes import DataError as RunError

RUN_ERRORS: list[RunError] = [
    RunError(
        "E0701",
        "a value is not finite",
        "The loss, a gradient or the next value of a parameter or state became infinite or not a "
        "number. The step is undone: the weights are those before it, and what was saved stays. "
        "The message names the equation where the value was born and its first place there; "
        "`nnc debug RUN` takes the step again. A smaller learning rate, clipping (`clip = "
        "clip_norm(1.0)`), scaled inputs, or a small number under a root, a logarithm or a "
        "division are the usual remedies.",
        "`optimizer = sgd(lr = 1000)`.",
    ),
    RunError(
        "E0702",
        "a condition on something that is not measured",
        "`until` and `monitor` name the loss, a metric, or either with `test_` or `validation_` "
        "before it where such a split exists; `until` compares them with numbers, and may join "
        "comparisons with `and` and `or`. A `-` before a monitored metric says: less is better.",
        "`until acuracy > 0.99`; `monitor = validation_loss` without a validation set.",
    ),
    RunError(
        "E0703",
        "a setting of a train block has the wrong value",
        "The value has the wrong type or is outside what the field allows.",
        '`batch = 0`; `keep = "first"`; `epochs = 2.5`.',
    ),
    RunError(
        "E0704",
        "`--set` names nothing that can be set",
        "`--set NAME=VALUE` sets a field or a `let` of the train block, a symbolic size of the "
        "model's inputs, or an argument of a call in a field (`--set optimizer.lr=0.01`).",
        "`--set bacth=64`.",
    ),
    RunError(
        "E0705",
        "the run folder is in use",
        "A run never writes over another. Name a new or empty folder with `--out`, or go on with "
        "an interrupted run with `--resume`.",
        "`nnc train mnist.nn --out runs/first`, twice.",
    ),
    RunError(
        "E0706",
        "not a usable run folder",
        "The folder lacks a file that a run writes, or a file in it is damaged or of another "
        "program.",
        "`nnc eval runs/frist`.",
    ),
    RunError(
        "E0707",
        "which model or train block is not clear",
        "The file has no model, no train block where one is needed, or several of them: name one "
        "with `--model`.",
        "`nnc train layers.nn`, where the file only defines layers.",
    ),
    RunError(
        "E0708",
        "arrays that do not fit the model",
        "An array given to `predict`, `evaluate` or `fit` has another shape, type or number of "
        "examples than the model's inputs say.",
        "An input `image: f32[B, 28, 28, 1]`, given an array of shape [100, 784].",
    ),
    RunError(
        "E0709",
        "a file that cannot be read or written",
        "The operating system refused: no such folder, no permission, a full disk.",
        "`--output results/y.npy` without a folder `results`.",
    ),
    RunError(
        "E0710",
        "data that do not fit the model",
        "A field of the data holds real numbers where the model reads whole ones, or the model "
        "fixes the size of the batch that training chooses.",
        "`input label: i32[B]`, and a column of prices as `label`.",
    ),
    RunError(
        "E0711",
        "no data",
        "Training needs data: `data = mnist()` in the train block names a source.",
        "`train Net { loss = mse(y, target) }`, given to `nnc train`.",
    ),
    RunError(
        "E0712",
        "the model cannot generate text",
        "Generation needs a model that maps tokens `i32[B, T]` to logits `f32[B, T, n]` in which "
        "no position depends on later ones, trained on a text, so that tokens can be read. It may "
        "read another text first, and its length: `source: i32[B, S], source_length: i32[B]`.",
        "`nnc generate RUN` of a model that classifies images.",
    ),
    RunError(
        "E0713",
        "not enough memory",
        "The memory of every program is planned before any is taken, and compared with what is "
        "free: on the machine, in the container and under `ulimit -v`. The largest tensors are "
        "named. Most of a training step's memory is in proportion to the batch; parameters and "
        "what the optimizer keeps for each are not.",
        "`nnc train model.nn --batch 1000000`.",
    ),
    RunError(
        "W0303",
        "a label that looks one-hot",
        "A field of whole numbers is used as classes, each number one class, and in the data every "
        "row is 0 but for a single 1. `argmax(label)` is the class that such a row marks; "
        "`cross_entropy_onehot` takes the row itself.",
        "`mean(-log_softmax(logits)[b, label[b, k]])` with labels such as `[0, 0, 1]`.",
    ),
    RunError(
        "W0701",
        "a damaged checkpoint was passed over",
        "A checkpoint is not what was written, or of another program: training goes on from the "
        "one before it, and ends with the same bits.",
        "`nnc train --resume RUN` after the disk lost a part of the last checkpoint.",
    ),
    RunError(
        "E0720",
        "the GPU cannot be used",
        "The device `cuda` needs an NVIDIA GPU with its driver, CuPy for the driver's CUDA, and "
        "NVRTC. `nnc doctor` lists what is there and says how to install what is not.",
        "`--device cuda` on a computer without a GPU; CuPy for CUDA 13 with a driver for 12.",
    ),
    RunError(
        "E0801",
        "the machine code is wrong",
        "`nnc verify` ran the machine code of an equation, and it gave another result than the "
        "reference evaluator, or another one on other threads. This is a mistake of nnc's, not of "
        "the file.",
        "A result that is off by more than `--tolerance`.",
    ),
    RunError(
        "E0802",
        "a gradient is wrong",
        "`nnc verify` moved a tensor a little, and the loss changed by another amount than the "
        "gradient says. This is a mistake of nnc's, not of the file.",
        "A derivative in the table of scalar functions that is not the function's.",
    ),
    RunError(
        "E0803",
        "a pass of the compiler broke a rule",
        "`nnc verify` checks after every pass that the equations are well-formed and compute what "
        "they did before. This is a mistake of nnc's, not of the file.",
        "A pass that drops a term of a sum.",
    ),
    RunError(
        "E0804",
        "a loss that cannot be verified",
        "On the random numbers that `nnc verify` draws the loss is not finite, and so it has no "
        "gradients to compare. The file need not be wrong.",
        "`loss = mean(log(x - 5))`, for x from 0 to 1.",
    ),
]
