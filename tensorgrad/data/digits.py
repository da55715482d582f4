"""scikit-learn's hand-written digits."""

from __future__ import annotations

import numpy as np

from tensorgrad.core.backend import Array
from tensorgrad.errors import MissingDependencyError


def load_digits() -> tuple[Array, Array]:
    """1797 images of 8 x 8 pixels as rows of 64, float32 in 0 .. 16, and their labels 0 .. 9, int64."""
    try:
        from sklearn.datasets import load_digits as load
    except ImportError:
        raise MissingDependencyError(
            "load_digits: the digits are part of scikit-learn, which is not installed; pip install scikit-learn"
        ) from None
    images, labels = load(return_X_y=True)
    return images.astype(np.float32), labels.astype(np.int64)
