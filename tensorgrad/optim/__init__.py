"""Optimisers: they write into parameters, between passes."""

from tensorgrad.optim.sgd import SGD

__all__ = ["SGD"]
