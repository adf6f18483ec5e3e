"""nnc: a compiler for neural networks written as equations.

`nnc.load("model.nn")` gives a `Model` with `fit`, `evaluate`, `predict` and `parameters`; mistakes
are `UserError`s. Everything else is behind the `nnc` command. Nothing heavy is imported before it
is needed.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__path__ = [*__path__, f"{__path__[0]}/runtime/public"]  # where `nnc.sklearn` is

if TYPE_CHECKING:
    from . import sklearn as sklearn
    from .runtime.api.errors import ArgumentError as ArgumentError
    from .runtime.api.errors import ProgramWarning as ProgramWarning
    from .runtime.api.errors import UserError as UserError
    from .runtime.api.model import Model as Model
    from .runtime.api.opening import load as load
    from .runtime.api.opening import loads as loads
    from .runtime.api.parameters import ParameterError as ParameterError
    from .runtime.training.callbacks import Callback as Callback
    from .runtime.training.callbacks import Training as Training
    from .runtime.training.trackers import TensorBoard as TensorBoard
    from .runtime.training.trackers import Trackio as Trackio

# name → the module that has it
_PUBLIC = {
    "ArgumentError": "runtime.api.errors",
    "Callback": "runtime.training.callbacks",
    "Model": "runtime.api.model",
    "ParameterError": "runtime.api.parameters",
    "ProgramWarning": "runtime.api.errors",
    "TensorBoard": "runtime.training.trackers",
    "Trackio": "runtime.training.trackers",
    "Training": "runtime.training.callbacks",
    "UserError": "runtime.api.errors",
    "load": "runtime.api.opening",
    "loads": "runtime.api.opening",
}

_MODULES = ("sklearn",)  # each with an extra of its own

__all__ = [
    "ArgumentError", "Callback", "Model", "ParameterError", "ProgramWarning", "TensorBoard",
    "Trackio", "Training", "UserError", "__version__", "load", "loads",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _MODULES:
        return import_module(f".{name}", __name__)
    if name not in _PUBLIC:
        raise AttributeError(f"module 'nnc' has no attribute {name!r}")
    found = getattr(import_module(f".{_PUBLIC[name]}", __name__), name)
    globals()[name] = found
    return found


def load_ipython_extension(shell: Any) -> None:
    """What `%load_ext nnc` in a notebook calls: the magic `%%nn`, whose cell is a program."""
    from .runtime.api.notebook import load_ipython_extension

    load_ipython_extension(shell)


def __dir__() -> list[str]:
    return sorted(__all__)
