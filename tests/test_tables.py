"""Tables that tests and documents hold by hand, against what there is: whoever adds an activation, a loss, a layer, a fused
pattern, an optimiser or a schedule is told here where else it belongs."""

from __future__ import annotations

import inspect
import re

import numpy as np
from tensorgrad.models import MLP, MLPClassifier, mlp

from tensorgrad import Tensor, draw, nn, ops, optim
from tensorgrad.autograd import fusion
from tensorgrad.graph import Graph
from tensorgrad.nn import functional as F
from tensorgrad.op import REGISTRY
from tensorgrad.testing import strategies
from tests import (
    kinds,
    test_attention,
    test_compile,
    test_ctc,
    test_cuda,
    test_ensemble,
    test_functional,
    test_fusion,
    test_layers,
    test_ops_elementwise,
    test_optim,
    test_parts,
    test_recurrent,
    test_torch_values,
    test_weights,
)
from tests import test_schedules as schedules
from tests.cuda import chains
from tests.oracles import linalg

ACTIVATIONS = {op for op in REGISTRY.values() if op.activation and not op.layer}
FUSED_LAYERS = {op for op in REGISTRY.values() if op.activation and op.layer}
OPTIMISERS = set(kinds.OPTIMISERS)


def test_every_activation_has_a_module_and_is_tried() -> None:
    assert len(ACTIVATIONS) > 6
    assert strategies.ACTIVATIONS.keys() == {op.name for op in ACTIVATIONS}  # the module is called as the op
    modules = set(strategies.ACTIVATIONS.values())
    assert modules <= {type(layer) for layer, *_ in test_layers.PLAIN}
    compiled = {type(part) for make in test_compile.MODELS.values() for _, part in make(np.float32).named_modules()}
    assert modules <= compiled
    assert {op.name for op in ACTIVATIONS} <= set(test_ops_elementwise.FAR_OUT)


def test_every_activation_can_be_asked_for_by_name() -> None:
    assert set(strategies.ACTIVATIONS.values()) <= set(mlp.ACTIVATIONS.values())
    for name in mlp.ACTIVATIONS:
        assert f'"{name}"' in MLP.__doc__, name
        assert f'"{name}"' in MLPClassifier.__doc__, name


def test_every_layer_is_tried() -> None:
    files = (test_layers, test_parts, test_functional, test_cuda, test_torch_values, test_ensemble, test_recurrent)
    files = (*files, test_attention, test_ctc)
    text = "".join(inspect.getsource(file) for file in files)
    found = {type(layer) for layer, *_ in test_layers.PLAIN} | {make for make, *_ in test_layers.LOSSES}
    found |= {
        type(make()) for make in (*test_weights.LAYERS.values(), *(make for make, _ in test_torch_values.LOSSES.values()))
    }
    for kind in kinds.LAYERS:
        assert kind in found or f"nn.{kind.__name__}" in text, kind.__name__


def test_every_loss_has_a_formula_and_a_module() -> None:
    functions = {name for name in F.__all__ if "reduction" in inspect.signature(getattr(F, name)).parameters}
    by_torch = {make().__class__ for make, _ in test_torch_values.LOSSES.values()}
    by_torch.add(nn.CTCLoss)  # by values of its own, see test_ctc
    assert {make for make, *_ in test_layers.LOSSES} | by_torch >= set(kinds.LOSSES)
    modules = {"cross_entropy": "CrossEntropyLoss", "binary_cross_entropy": "BCELoss"}  # named otherwise than the function
    named = {kind.__name__.lower() for kind in by_torch | {nn.NLLLoss}}
    for name in functions - test_functional.PAIRS.keys():
        assert modules.get(name, name.replace("_", "")).lower() in named | {"crossentropyloss"}, name


def test_every_fused_layer_is_matched_derived_and_proved() -> None:
    assert {op.name for op in FUSED_LAYERS} == {f"linear_{op.expands[1].name}" for op in FUSED_LAYERS}
    assert all(op.expands[0] is ops.linear and op.expands[1] in fusion.PATTERNS for op in FUSED_LAYERS)
    assert test_fusion.LAYERS.keys() == linalg.LAYERS.keys() == {"linear"} | {op.name for op in FUSED_LAYERS}
    x, w, b = (Tensor(np.ones(shape), True, name=name) for name, shape in (("x", (2, 3)), ("w", (3, 2)), ("b", (2,))))
    for op in FUSED_LAYERS:
        loss = op.expands[1](x @ w + b).sum()
        assert Graph.of(loss).fused().nodes[0].op is op
        assert not re.search(r"linear|_grad", str(draw.derive(loss, w)))


def test_every_optimiser_is_tried() -> None:
    parameters = [nn.Parameter(Tensor(np.ones(2, np.float32)))]
    assert {make for make, *_ in test_optim.OPTIMISERS.values()} == OPTIMISERS
    for tried in (test_compile.OPTIMISERS, test_cuda.OPTIMISERS):
        assert {type(make(parameters)) for make in tried.values()} == OPTIMISERS
    assert {kind.__name__ for kind in OPTIMISERS} <= chains.CHAINS.keys()


def test_every_schedule_is_tried() -> None:
    tried = {type(make(schedules.optimiser())) for make, _ in schedules.FORMULAS.values()}
    assert tried | {optim.CostRise, optim.ReduceOnPlateau} == set(kinds.SCHEDULES)
