"""Checking gradients: of your own model, loss or op; and that a compiled step is the step.

gradcheck, check_model     recorded gradients against derivatives that are found in other ways
check_compiled             calls of a compiled step against the step as it is written
matches_formula            against a closed form
taylor_test                whether Taylor remainders fall as they should: values alone, and a table to judge by eye
audit                      every registered op
strategies, expressions    what Hypothesis tries them with; import these two by name, they need Hypothesis
plugin                     for pytest: drawings of what failed
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
