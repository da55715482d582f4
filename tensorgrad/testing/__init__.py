"""Checking gradients: your own model's, loss's or op's."""

from tensorgrad.testing.gradcheck import check_model, gradcheck, matches_formula
from tensorgrad.testing.numerical import numerical_gradient
from tensorgrad.testing.report import Finding, GradientError, Report

__all__ = ["Finding", "GradientError", "Report", "check_model", "gradcheck", "matches_formula", "numerical_gradient"]
