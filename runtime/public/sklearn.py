"""Estimators of scikit-learn (docs/python.md); needs the extra `sklearn`."""

from nnc.runtime.api.estimators import Classifier, Regressor

__all__ = ["Classifier", "Regressor"]

Classifier.__module__ = Regressor.__module__ = __name__
