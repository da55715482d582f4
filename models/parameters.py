"""The parameters that MLPClassifier and MLPRegressor share, with their valid values."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any, TypeAlias

import numpy as np
from sklearn.base import BaseEstimator

from tensorgrad import nn, optim
from tensorgrad.nn import init

Rule: TypeAlias = tuple[Callable[[Any], bool], str]  # a test, and a description of valid values


def positive_integer(*alternatives: Any) -> Rule:
    """A rule: an integer > 0, or one of `alternatives`."""
    prefix = "".join(f"{v!r} or " for v in alternatives)
    return lambda v: (isinstance(v, (int, np.integer)) and int(v) > 0) or is_in(v, alternatives), f"{prefix}a positive integer"


def real(low: float, high: float = math.inf, ends: str = "[]") -> Rule:
    """A rule: a number in an interval; `ends` has its brackets, round for an open end."""

    def holds(v: Any) -> bool:
        if not isinstance(v, (int, float, np.integer, np.floating)) or isinstance(v, bool):
            return False
        value = float(v)
        return (value >= low if ends[0] == "[" else value > low) and (value <= high if ends[1] == "]" else value < high)

    upper = "" if high == math.inf else f" and {'at most' if ends[1] == ']' else 'below'} {high:g}"
    return holds, f"a number {'of at least' if ends[0] == '[' else 'above'} {low:g}{upper}"


def one_of(*values: Any) -> Rule:
    """A rule: one of these values."""
    return lambda v: is_in(v, values), f"one of {', '.join(map(repr, values))}"


def is_in(value: Any, values: tuple[Any, ...]) -> bool:
    return any(isinstance(value, type(v)) and value == v for v in values)


def is_device(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"cpu|cuda(:\d+)?", value) is not None


def is_float(dtype: Any) -> bool:
    """Whether it is None, or one of the two supported dtypes."""
    try:
        return dtype is None or np.dtype(dtype) in (np.float32, np.float64)
    except TypeError:
        return False


YES_OR_NO = (lambda v: isinstance(v, (bool, np.bool_)), "True or False")
CALLABLE = (lambda v: v is None or callable(v), "None or callable")

RULES: dict[str, Rule] = {
    "solver": one_of("adam", "sgd", "lbfgs"),
    "alpha": real(0),
    "batch_size": positive_integer("auto", "full"),
    "learning_rate": one_of("constant", "invscaling", "adaptive"),
    "learning_rate_init": real(0, ends="(]"),
    "power_t": real(0),
    "max_iter": positive_integer(),
    "shuffle": YES_OR_NO,
    "tol": real(0),
    "verbose": (lambda v: v == "bar" or isinstance(v, (int, np.integer, np.bool_)), "'bar', True, False or an integer"),
    "warm_start": YES_OR_NO,
    "momentum": real(0, 1),
    "nesterovs_momentum": YES_OR_NO,
    "early_stopping": YES_OR_NO,
    "validation_fraction": real(0, 1, "[)"),
    "beta_1": real(0, 1, "[)"),
    "beta_2": real(0, 1, "[)"),
    "epsilon": real(0, ends="(]"),
    "n_iter_no_change": positive_integer(math.inf),
    "max_fun": positive_integer(),
    "dropout": real(0, 1, "[)"),
    "weight_init": CALLABLE,
    "module": CALLABLE,
    "optimizer": CALLABLE,
    "schedule": CALLABLE,
    "device": (is_device, "'cpu', 'cuda' or 'cuda:1'"),
    "dtype": (is_float, "None, float32 or float64"),
    "compile": YES_OR_NO,
}


def can_partial_fit(model: Parameters) -> bool:
    """Whether the estimator has a `partial_fit`."""
    if not model._is_stochastic():
        raise AttributeError(f"{type(model).__name__}: partial_fit needs solver 'adam' or 'sgd', got 'lbfgs'")
    return True


@dataclass(eq=False, repr=False)
class Parameters(BaseEstimator):
    """The constructor, in whose signature scikit-learn finds the parameters. MLPClassifier documents them."""

    _: KW_ONLY
    solver: str = "adam"
    alpha: float = 0.0001
    batch_size: int | str = "auto"
    learning_rate: str = "constant"
    learning_rate_init: float = 0.001
    power_t: float = 0.5
    max_iter: int = 200
    shuffle: bool = True
    random_state: Any = None
    tol: float = 1e-4
    verbose: bool | int | str = False
    warm_start: bool = False
    momentum: float = 0.9
    nesterovs_momentum: bool = True
    early_stopping: bool = False
    validation_fraction: float = 0.1
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8
    n_iter_no_change: float = 10
    max_fun: int = 15000
    dropout: float = 0.0
    weight_init: init.Init | None = None
    module: Callable[[int, int], nn.Module] | None = None
    optimizer: Callable[..., optim.Optimiser] | None = None
    schedule: Callable[[optim.Optimiser], optim.Schedule] | None = None
    device: str = "cpu"
    dtype: Any = None
    compile: bool = True

    def _is_stochastic(self) -> bool:
        return self.solver != "lbfgs" or self.optimizer is not None
