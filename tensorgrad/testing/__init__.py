"""Gradient checks for your own model, loss or op, and checks of compiled steps.

gradcheck, check_model     compare recorded gradients with derivatives from other methods
check_compiled             compares calls of a compiled step with the eager step
matches_formula            compares gradients with a closed form
taylor_test                tests the convergence rate of Taylor remainders: uses only values, and prints a readable table
audit                      checks every registered op
strategies, expressions    Hypothesis strategies; import these two by name, they need Hypothesis
plugin                     for pytest: drawings of failed checks
"""

from tensorgrad.testing.audit import Audit, audit
from tensorgrad.testing.compiled import check_compiled
from tensorgrad.testing.gradcheck import check_model, gradcheck, matches_formula
from tensorgrad.testing.graphs import assert_same_graph
from tensorgrad.testing.numerical import numerical_gradient
from tensorgrad.testing.remainders import Remainders
from tensorgrad.testing.report import CompiledError, CompiledReport, Finding, GradientError, Report
from tensorgrad.testing.taylor import TaylorReport, taylor_test

__all__ = [
    "Audit",
    "CompiledError",
    "CompiledReport",
    "Finding",
    "GradientError",
    "Remainders",
    "Report",
    "TaylorReport",
    "assert_same_graph",
    "audit",
    "check_compiled",
    "check_model",
    "gradcheck",
    "matches_formula",
    "numerical_gradient",
    "taylor_test",
]
