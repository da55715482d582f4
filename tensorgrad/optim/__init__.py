"""Optimisers, which write into parameters between passes; gradient clipping; learning-rate schedules."""

from tensorgrad.optim.adaptive import Adagrad, Adam, AdamW, RMSprop
from tensorgrad.optim.clip import clip_grad_norm, clip_grad_value
from tensorgrad.optim.optimiser import Optimiser
from tensorgrad.optim.schedules import CosineLR, CostRise, ExponentialLR, ReduceOnPlateau, Schedule, StepLR, Warmup
from tensorgrad.optim.sgd import SGD

__all__ = [
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "CosineLR",
    "CostRise",
    "ExponentialLR",
    "Optimiser",
    "RMSprop",
    "ReduceOnPlateau",
    "Schedule",
    "StepLR",
    "Warmup",
    "clip_grad_norm",
    "clip_grad_value",
]
