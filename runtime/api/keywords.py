"""Arguments of calls that do not exist, and the ones that are meant.

What other libraries call an argument is answered with its name here, or with where it stands.
"""

from __future__ import annotations

from collections.abc import Collection

from ...dsl.diagnostics.diagnostic import Diagnostic, did_you_mean
from ..settings import FIELDS

# argument here → its names in Keras, PyTorch, Lightning, scikit-learn, XGBoost
_NAMES = {
    "batch": ("batch_size", "batchsize", "bs", "minibatch_size"),
    "epochs": ("epoch", "n_epochs", "num_epochs", "nb_epoch", "max_epochs", "n_epoch"),
    "steps": ("n_steps", "num_steps", "max_steps", "max_iter", "n_iter", "steps_per_epoch"),
    "seed": ("random_state", "random_seed", "rng", "rng_seed"),
    "validation": (
        "validation_data", "validation_split", "validation_set", "validation_fraction", "val_data",
        "val", "val_split", "valid", "eval_set", "eval_data", "test_data", "validate",
    ),
    "callbacks": ("callback", "hooks", "hook", "on_epoch_end", "on_step"),
    "verbose": ("progress", "progress_bar", "verbosity", "silent", "quiet", "show_progress"),
    "sample_weight": ("sample_weights", "weights", "example_weight"),
    "class_weight": ("class_weights", "balance", "balanced"),
    "settings": ("config", "options", "params", "hyperparameters", "overrides", "set"),
    "threads": ("n_jobs", "num_threads", "n_threads", "num_workers", "workers", "thread"),
    "device": ("accelerator", "gpu", "cuda", "gpus"),
    "model": ("layer", "part", "module", "submodel"),
    "tensor": ("tensors", "output", "outputs", "output_names", "fetches"),
    "partial": ("strict", "by_name"),
    "overwrite": ("exist_ok", "force", "replace"),
}  # fmt: skip
FOREIGN = {other: name for name, others in _NAMES.items() for other in others}

# what is a part of the program elsewhere, and where it stands
_OF_OPTIMIZERS = {
    "lr": "lr", "learning_rate": "lr", "learning_rate_init": "lr", "momentum": "beta",
    "weight_decay": "decay", "alpha": "decay",
}  # fmt: skip
_OF_LOAD = ("threads", "device")
# arguments that other libraries have and that there is no need of, by method
_NEEDLESS = {
    "predict": "any number of examples is worked through in parts, and nothing is printed",
    "evaluate": "any number of examples is worked through in parts, and nothing is printed",
}
_OF_TRAINING = {"batch", "verbose", "epochs", "steps", "callbacks"}


def unknown_argument(function: str, name: str, known: Collection[str]) -> Diagnostic:
    """E0704 for an argument that a function does not have, with the likely fix."""
    return Diagnostic(
        "E0704", f"{function}() has no argument `{name}`", help=_fix(function, name, known)
    )


def _fix(function: str, name: str, known: Collection[str]) -> str:
    # `self` and the packed arguments are no names that a caller may use
    usable = [n for n in known if n not in ("self", "arrays", "named")]
    meant = FOREIGN.get(name.lower(), name)
    if meant in usable:
        return f"did you mean `{meant}`?" + _MORE.get(name, "")
    if found := did_you_mean(name, usable):
        return found
    if name in _OF_OPTIMIZERS:
        entry = f'settings={{"optimizer.{_OF_OPTIMIZERS[name]}": …}}'
        return f"it stands in the program; `{entry}` sets it{_where(usable)}"
    if meant in _OF_LOAD:
        return f"it is chosen when the model is loaded: `nnc.load(…, {meant}=…)`"
    if function in _NEEDLESS and meant in _OF_TRAINING:
        return f"leave it out: {_NEEDLESS[function]}"
    if meant in FIELDS or name in ("metrics", "metric", "criterion"):
        field = meant if meant in FIELDS else "loss"
        return f'it stands in the program; `settings={{"{field}": …}}` sets it{_where(usable)}'
    return f"there are {', '.join(f'`{n}`' for n in usable)}"


def _where(usable: Collection[str]) -> str:
    return "" if "settings" in usable else " in `nnc.load` and in `fit`"


_MORE = {
    "validation_split": " `validation=0.1` holds a tenth of the examples back",
    "validation_fraction": " `validation=0.1` holds a tenth of the examples back",
    "val_split": " `validation=0.1` holds a tenth of the examples back",
    "validation_data": " it is `(x, y)`, or a share of the examples",
    "on_epoch_end": " a function in it is called after every epoch",
    "on_step": " an object in it has the methods `on_step` and `on_epoch_end`",
    "strict": " `partial=True` takes the weights that fit",
}
