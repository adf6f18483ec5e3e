"""Estimators of scikit-learn: a program, or a small network for the data, to `fit` and `predict`.

In: arrays as scikit-learn takes them. Out: labels, probabilities, numbers. What they do not do of
scikit-learn's contract is in docs/python.md. Tests: tests/runtime/test_estimators.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any

import numpy as np

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.utils.class_weight import compute_sample_weight
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
except ImportError as error:
    raise ImportError(
        "nnc.sklearn needs scikit-learn 1.6 or later: pip install 'nnc-lang[sklearn]'"
    ) from error

from .model import Model
from .opening import load, loads

_NETWORK = """
model Network(x: f32[B, {features}]) -> {result} {{
    {body}
}}

train Network {{
    loss      = {loss}
    optimizer = adam(lr = 1e-2)
    epochs    = 60
    keep      = "last"
}}
"""


class _Estimator(BaseEstimator):
    """What both estimators are: a model that is made for the data."""

    model_: Model

    def __init__(
        self,
        program: str | PathLike[str] | None = None,
        *,
        hidden: tuple[int, ...] = (64,),
        epochs: int | None = None,
        batch: int | None = None,
        settings: Mapping[str, object] | None = None,
        random_state: Any = None,
        device: str = "cpu",
        threads: int | None = None,
        verbose: bool = False,
    ) -> None:
        self.program = program
        self.hidden = hidden
        self.epochs = epochs
        self.batch = batch
        self.settings = settings
        self.random_state = random_state
        self.device = device
        self.threads = threads
        self.verbose = verbose

    def _checked(self, X: Any, **how: Any) -> Any:
        """Arrays as scikit-learn checks them; a program may take more than two dimensions."""
        free = self.program is not None
        return validate_data(self, X, dtype="numeric", allow_nd=free, ensure_2d=not free, **how)

    def _opened(self, network: str) -> Model:
        """The model of the program, or of the network where there is none."""
        how: dict[str, Any] = {"device": self.device, "threads": self.threads}
        if self.program is None:
            return loads(network, name="network.nn", **how)
        text = str(self.program)
        return loads(text, **how) if "\n" in text or "{" in text else load(text, **how)

    def _train(self, network: str, X: Any, y: np.ndarray, sample_weight: Any) -> None:
        self.model_ = self._opened(network)
        history = self.model_.fit(
            X, y,
            epochs=self.epochs, batch=self.batch, settings=self.settings, seed=self._seed(),
            sample_weight=sample_weight, verbose=self.verbose,
        )  # fmt: skip
        self.n_iter_ = len(history)

    def _seed(self) -> int | None:
        """A number for the seed: `random_state` may also be a generator, as elsewhere."""
        if hasattr(self.random_state, "randint"):
            return int(self.random_state.randint(1 << 31))
        return self.random_state

    def _network(self, features: int, result: str, last: str, loss: str) -> str:
        layers = "".join(f" |> Dense({n}) |> relu" for n in self.hidden)
        return _NETWORK.format(
            features=features, result=result, loss=loss, body=last.format(layers=f"x{layers}")
        )

    def _predicted(self, X: Any) -> np.ndarray:
        check_is_fitted(self, "model_")
        found = self.model_.predict(self._checked(X, reset=False))
        # Of several results the first is the prediction.
        return next(iter(found.values())) if isinstance(found, dict) else found


class Classifier(ClassifierMixin, _Estimator):
    """A classifier: a program whose first result are logits, f32[B, classes], or without one a
    network with `hidden` layers for the data.

    `program` is a `.nn` file, a run folder or a text. `epochs`, `batch`, `settings` and
    `random_state` (the seed) set what its train block says. `class_weight` is a dictionary by class
    or "balanced": examples are drawn in proportion to their weights. After `fit` it has `model_`,
    an `nnc.Model`, `classes_`, `n_features_in_`, `feature_names_in_` and `n_iter_`.
    """

    def __init__(
        self,
        program: str | PathLike[str] | None = None,
        *,
        hidden: tuple[int, ...] = (64,),
        epochs: int | None = None,
        batch: int | None = None,
        settings: Mapping[str, object] | None = None,
        class_weight: Any = None,
        random_state: Any = None,
        device: str = "cpu",
        threads: int | None = None,
        verbose: bool = False,
    ) -> None:
        super().__init__(
            program, hidden=hidden, epochs=epochs, batch=batch, settings=settings,
            random_state=random_state, device=device, threads=threads, verbose=verbose,
        )  # fmt: skip
        self.class_weight = class_weight

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Classifier:
        """Train on X [n, features] and labels y [n] of any type."""
        X, y = self._checked(X, y=y)
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        weights = _weights(X, sample_weight)
        if self.class_weight is not None:
            by_class = compute_sample_weight(self.class_weight, y)
            weights = by_class if weights is None else weights * by_class
        result = f"logits: f32[B, {len(self.classes_)}]"
        last = f"logits = {{layers}} |> Dense({len(self.classes_)})"
        network = self._network(np.shape(X)[-1], result, last, "cross_entropy(logits, label)")
        self._train(network, X, labels.astype(np.int32), weights)
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """The probability of every class, [n, classes], in the order of `classes_`."""
        # A program may have more classes than the labels that were seen.
        logits = self._predicted(X)[:, : len(self.classes_)].astype(np.float64)
        found = np.exp(logits - logits.max(1, keepdims=True))
        return found / found.sum(1, keepdims=True)

    def predict(self, X: Any) -> np.ndarray:
        """The likeliest class of every example, [n]."""
        probabilities = self.predict_proba(X)
        return self.classes_[probabilities.argmax(1)]


class Regressor(RegressorMixin, _Estimator):
    """A regressor: a program whose first result are numbers, f32[B] or f32[B, targets], or without
    one a network with `hidden` layers for the data. Arguments and attributes as of `Classifier`."""

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Regressor:
        """Train on X [n, features] and numbers y, [n] or [n, targets]."""
        X, y = self._checked(X, y=y, multi_output=True, y_numeric=True)
        y = np.asarray(y, np.float32)
        self._flat = y.ndim == 1
        if self._flat:
            result, last = "guess: f32[B]", "h = {layers} |> Dense(1)\n    guess[b] = h[b, 0]"
        else:
            result, last = (
                f"guess: f32[B, {y.shape[1]}]",
                f"guess = {{layers}} |> Dense({y.shape[1]})",
            )
        network = self._network(np.shape(X)[-1], result, last, "mse(guess, y)")
        self._train(network, X, y, _weights(X, sample_weight))
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Numbers as those of `fit`, [n] or [n, targets]."""
        found = self._predicted(X)
        found = found.astype(np.float64)
        return found.reshape(len(found)) if self._flat else found

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


def _weights(X: Any, sample_weight: Any) -> np.ndarray | None:
    return None if sample_weight is None else _check_sample_weight(sample_weight, X)
