"""`nnc.sklearn` for type checkers, which do not see that it lies in `runtime/public/`."""

from nnc.runtime.api.estimators import Classifier as Classifier
from nnc.runtime.api.estimators import Regressor as Regressor
