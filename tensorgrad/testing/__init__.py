"""Checking gradients: of your own model, loss or op; and that a compiled step is the step.

gradcheck, check_model     recorded gradients against slopes taken from values
check_compiled             calls of a compiled step against the step as it is written
matches_formula            against a closed form
audit                      every registered op
strategies, expressions    what Hypothesis tries them with; import these two by name, they need Hypothesis
plugin                     for pytest: drawings of what failed
"""

from tensorgrad.testing.audit import Audit, audit
from tensorgrad.testing.compiled import check_compiled
from tensorgrad.testing.gradcheck import check_model, gradcheck, matches_formula
from tensorgrad.testing.graphs import assert_same_graph
from tensorgrad.testing.numerical import numerical_gradient
from tensorgrad.testing.report import CompiledError, CompiledReport, Finding, GradientError, Report

__all__ = [
    "Audit",
    "CompiledError",
    "CompiledReport",
    "Finding",
    "GradientError",
    "Report",
    "assert_same_graph",
    "audit",
    "check_compiled",
    "check_model",
    "gradcheck",
    "matches_formula",
    "numerical_gradient",
]
