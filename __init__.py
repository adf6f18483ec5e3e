"""nnc: a compiler for neural networks written as equations.

`nnc.load("model.nn")` gives a `Model` with `.fit`, `.predict` and `.parameters`; everything else
is behind the `nnc` command. Nothing heavy is imported before it is needed.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .runtime.api import Model, load

__all__ = ["Model", "__version__", "load"]


def __getattr__(name: str) -> Any:
    if name in ("load", "Model"):
        from .runtime import api

        return getattr(api, name)
    raise AttributeError(f"module 'nnc' has no attribute {name!r}")
