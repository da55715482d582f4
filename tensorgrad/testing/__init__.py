"""Checking gradients."""

from tensorgrad.testing.numerical import numerical_gradient

__all__ = ["numerical_gradient"]
