"""Optimisers, gradient clipping and learning-rate schedules."""

from typing import TYPE_CHECKING

from tensorgrad.core.installation import missing
from tensorgrad.optim.adaptive import Adagrad, Adam, AdamW, RMSprop
from tensorgrad.optim.clip import clip_grad_norm, clip_grad_value
from tensorgrad.optim.group import ParamGroup
from tensorgrad.optim.lbfgs import LBFGS
from tensorgrad.optim.optimiser import Optimiser
from tensorgrad.optim.plateau import CostRise, ReduceOnPlateau
from tensorgrad.optim.schedule import Schedule
from tensorgrad.optim.schedules import (
    CosineAnnealingWarmRestarts,
    CosineLR,
    ExponentialLR,
    LambdaLR,
    MultiStepLR,
    OneCycleLR,
    StepLR,
    Warmup,
)
from tensorgrad.optim.sgd import SGD

__all__ = [
    "LBFGS",
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "CosineAnnealingWarmRestarts",
    "CosineLR",
    "CostRise",
    "ExponentialLR",
    "LambdaLR",
    "MultiStepLR",
    "OneCycleLR",
    "Optimiser",
    "ParamGroup",
    "RMSprop",
    "ReduceOnPlateau",
    "Schedule",
    "StepLR",
    "Warmup",
    "clip_grad_norm",
    "clip_grad_value",
]

if not TYPE_CHECKING:  # a type checker would otherwise accept any name

    def __getattr__(name: str) -> None:
        missing(__name__, name)
