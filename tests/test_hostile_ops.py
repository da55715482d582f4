"""Gradients of ops on numbers from 1e-100 to 1e100 against closed forms in np.longdouble, which has more digits and range."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tensorgrad
from tensorgrad import Tensor, ops

LONG = np.longdouble
if np.finfo(LONG).eps > 1e-18:
    pytest.skip("needs an np.longdouble wider than float64: run it on x86-64 Linux", allow_module_level=True)

SIZES = 10.0 ** np.array([-100, -30, -8, -3, -1, 0, 1, 2, 4, 8, 30, 100])
POSITIVE = np.concatenate([SIZES, 0.7 * SIZES])
ANY = np.concatenate([POSITIVE, -POSITIVE])


def sigmoid(x: Any) -> Any:
    e = np.exp(-np.abs(x))
    return np.where(x > 0, 1 / (1 + e), e / (1 + e))


# name: where, first derivative, second derivative
FORMS: dict[str, tuple[np.ndarray, Callable[[Any], Any], Callable[[Any], Any]]] = {
    "exp": (ANY[np.abs(ANY) < 100], np.exp, np.exp),
    "expm1": (ANY[np.abs(ANY) < 100], np.exp, np.exp),
    "log": (POSITIVE, lambda x: 1 / x, lambda x: -1 / x / x),
    "log1p": (POSITIVE, lambda x: 1 / (1 + x), lambda x: -1 / (1 + x) / (1 + x)),
    "log2": (POSITIVE, lambda x: 1 / x / np.log(LONG(2)), lambda x: -1 / x / x / np.log(LONG(2))),
    "sqrt": (POSITIVE, lambda x: 0.5 / np.sqrt(x), lambda x: -0.25 / x / np.sqrt(x)),
    "square": (ANY, lambda x: 2 * x, lambda x: 2 + 0 * x),
    "reciprocal": (ANY, lambda x: -1 / x / x, lambda x: 2 / x / x / x),
    "sin": (ANY[np.abs(ANY) < 1e5], np.cos, lambda x: -np.sin(x)),
    "cos": (ANY[np.abs(ANY) < 1e5], lambda x: -np.sin(x), lambda x: -np.cos(x)),
    # beyond, (1 + x²)² does not fit, and 0 is given for the second derivative, 1e-300
    "arctan": (ANY[np.abs(ANY) < 1e50], lambda x: 1 / (1 + x * x), lambda x: -2 * x / (1 + x * x) ** 2),
    "arcsin": (ANY[np.abs(ANY) < 1], lambda x: 1 / np.sqrt((1 - x) * (1 + x)), lambda x: x / ((1 - x) * (1 + x)) ** LONG(1.5)),
    "sinh": (ANY[np.abs(ANY) < 100], np.cosh, np.sinh),
    "cosh": (ANY[np.abs(ANY) < 100], np.sinh, np.cosh),
    "sigmoid": (
        ANY,
        lambda x: sigmoid(x) * sigmoid(-x),
        lambda x: sigmoid(x) * sigmoid(-x) * (sigmoid(-x) - sigmoid(x)),
    ),
    "tanh": (ANY, lambda x: 4 * sigmoid(2 * x) * sigmoid(-2 * x), None),
    "softplus": (ANY, sigmoid, lambda x: sigmoid(x) * sigmoid(-x)),
    "logsigmoid": (ANY, lambda x: sigmoid(-x), lambda x: -sigmoid(x) * sigmoid(-x)),
    "abs": (ANY, np.sign, lambda x: 0 * x),
    "relu": (ANY, lambda x: x > 0, lambda x: 0 * x),
    "elu": (ANY, lambda x: np.exp(np.minimum(x, 0)), lambda x: np.where(x > 0, 0, np.exp(np.minimum(x, 0)))),
}
# what is lost by the formula that the rule is written in, as a share of the largest derivative rather than of this one
ABSOLUTE = {"sigmoid", "tanh", "softplus", "logsigmoid", "arcsin"}  # 1 - y, 1 - y² of a y near 1; (1 + x) - (1 - x)


@pytest.mark.parametrize("name", FORMS)
def test_closed_forms(name: str) -> None:
    at, *forms = FORMS[name]
    x = Tensor(at, True)
    with np.errstate(all="ignore"):
        (first,) = tensorgrad.grad(getattr(ops, name)(x).sum(), x, create_graph=True)
        found = [first, *(tensorgrad.grad(first.sum(), x) if first.requires_grad else [Tensor(np.zeros(at.shape))])]
        for g, form in zip(found, forms, strict=True):
            if form is None:
                continue
            expected = np.asarray(form(at.astype(LONG)))
            fits = np.abs(expected) < np.finfo(np.float64).max
            assert np.isfinite(g.data[fits]).all()
            assert (np.abs(g.data[~fits]) > 1e307).all()
            floor = 1e-15 if name in ABSOLUTE else 1e-307  # subnormal numbers have fewer digits
            wrong = np.abs(g.data - expected)[fits] > 1e-13 * np.abs(expected[fits]) + floor
            assert not wrong.any(), (at[fits][wrong], g.data[fits][wrong], expected[fits][wrong])
