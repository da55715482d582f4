"""Models on top of tensorgrad: the multi-layer perceptron, scikit-learn estimators, and the same networks by hand in NumPy."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tensorgrad.models.mlp import MLP

from tensorgrad.errors import MissingDependencyError

if TYPE_CHECKING:
    from tensorgrad.models.classifier import MLPClassifier
    from tensorgrad.models.regressor import MLPRegressor
    from tensorgrad.models.sweep import SweepSearchCV
    from tensorgrad.models.together import fit_many

__all__ = ["MLP", "MLPClassifier", "MLPRegressor", "SweepSearchCV", "fit_many"]

WHERE = {"MLPClassifier": "classifier", "MLPRegressor": "regressor", "SweepSearchCV": "sweep", "fit_many": "together"}


def __getattr__(name: str) -> Any:
    """Import the estimators on demand: only they need scikit-learn."""
    if name not in WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = import_module(f"tensorgrad.models.{WHERE[name]}")
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in ("sklearn", "scipy"):  # a dependency of scikit-learn
            raise
        raise MissingDependencyError(
            f"tensorgrad.models.{name} needs scikit-learn 1.7 or newer ({error}); pip install 'scikit-learn>=1.7'"
        ) from None
    return getattr(module, name)
