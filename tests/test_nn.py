"""Modules, layers, initialisers."""

from __future__ import annotations

import re

import numpy as np
import pytest

from tensorgrad import Tensor, nn
from tensorgrad.errors import ShapeError

pytestmark = pytest.mark.quick


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.rest = nn.Sequential(nn.ReLU(), nn.Linear(4, 2, bias=False))
        self.shift = nn.Parameter([0.5, -0.5])

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(self.first(x)) + self.shift


def test_parameters_have_paths() -> None:
    net = Net()
    assert {name: p.shape for name, p in net.named_parameters()} == {
        "shift": (2,),
        "first.weight": (3, 4),
        "first.bias": (4,),
        "rest.1.weight": (4, 2),
    }
    assert [name for name, _ in net.named_modules()] == ["", "first", "rest", "rest.0", "rest.1"]
    assert all(p.requires_grad and p.dtype == np.float32 for p in net.parameters())


def test_shared_parameter_appears_once() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    net[1].weight = net[0].weight
    assert [name for name, _ in net.named_parameters()] == ["0.weight", "0.bias", "1.bias"]


def test_forward_and_scopes() -> None:
    net = Net()
    x = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    y = net(x)
    w, b, v, s = (net.state_dict()[k] for k in ("first.weight", "first.bias", "rest.1.weight", "shift"))
    np.testing.assert_allclose(y.data, np.maximum(x @ w + b, 0) @ v + s, rtol=1e-5)
    scopes = []
    node = y.node
    while node is not None:
        scopes.append((node.op.name, node.scope))
        node = next((i for i in node.inputs if not isinstance(i, Tensor)), None)
    assert scopes == [("add", ""), ("matmul", "rest.1"), ("relu", "rest.0"), ("linear", "first")]


def test_scope_is_put_back_after_an_error() -> None:
    from tensorgrad.core.state import state

    with pytest.raises(ShapeError):
        Net()(np.ones((2, 7)))
    assert state.scope == ""


def test_state_dict_round_trip() -> None:
    a, b = Net(), Net()
    b.load_state_dict(a.state_dict())
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        np.testing.assert_array_equal(p.data, q.data)
        assert not np.shares_memory(p.data, q.data)


def test_load_state_dict_names_every_difference_and_changes_nothing() -> None:
    net = Net()
    before = net.state_dict()
    values = {**before, "other": np.zeros(1), "first.bias": np.zeros(5)}
    del values["shift"]
    message = "load_state_dict: Net: missing ['shift']; unexpected ['other']; first.bias has shape (5,), expected (4,)"
    with pytest.raises(ShapeError, match=re.escape(message)):
        net.load_state_dict(values)
    for name, p in net.named_parameters():
        np.testing.assert_array_equal(p.data, before[name])


def test_repr_and_misuse() -> None:
    assert repr(Net()).splitlines() == [
        "Net()                             shift (2,)                26",
        "  (first) Linear(3, 4)            weight (3, 4), bias (4,)  16",
        "  (rest) Sequential()                                        8",
        "    (0) ReLU()",
        "    (1) Linear(4, 2, bias=False)  weight (4, 2)              8",
    ]
    assert repr(nn.Linear(3, 4)) == "Linear(3, 4)"
    with pytest.raises(TypeError, match="Module does not define forward"):
        nn.Module()(1)

    class Forgetful(nn.Module):
        def __init__(self) -> None:
            self.layer = nn.Linear(1, 1)

    with pytest.raises(AttributeError, match=r"Forgetful: call super\(\).__init__\(\) before setting 'layer'"):
        Forgetful()


def test_zero_grad_forgets() -> None:
    net = Net()
    net(np.ones((1, 3), np.float32)).sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    net.zero_grad()
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize(
    ("make", "std", "bound"),
    [
        (nn.init.normal(0.1), 0.1, np.inf),
        (nn.init.uniform(0.3), 0.3 / np.sqrt(3), 0.3),
        (nn.init.xavier_uniform(), np.sqrt(2 / 1000), np.sqrt(6 / 1000)),
        (nn.init.he_normal(), np.sqrt(2 / 400), np.inf),
        (nn.init.xavier_normal(), np.sqrt(2 / 1000), np.inf),
        (nn.init.he_uniform(), np.sqrt(2 / 400), np.sqrt(6 / 400)),
        (nn.init.orthogonal(0.5), 0.5 / np.sqrt(600), np.inf),
        (nn.init.fan_in_uniform(), 1 / 20 / np.sqrt(3), 1 / 20),
        (nn.init.zeros(), 0, 0),
    ],
    ids=[
        "normal",
        "uniform",
        "xavier_uniform",
        "he_normal",
        "xavier_normal",
        "he_uniform",
        "orthogonal",
        "fan_in_uniform",
        "zeros",
    ],
)
def test_initialisers(make: nn.init.Init, std: float, bound: float) -> None:
    values = make((400, 600), np.random.default_rng(0))
    assert values.shape == (400, 600)
    assert values.std() == pytest.approx(std, rel=0.01)  # 240,000 draws: the standard error of std is 0.15 %
    assert abs(values.mean()) <= 4 * std / np.sqrt(values.size)
    assert abs(values).max() <= bound


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4), (2, 3, 2, 2)])
def test_orthogonal(shape: tuple[int, ...]) -> None:
    w = nn.init.orthogonal(2.0)(shape, np.random.default_rng(0)).reshape(shape[0], -1)
    product = w.T @ w if w.shape[0] >= w.shape[1] else w @ w.T
    np.testing.assert_allclose(product, 4 * np.eye(len(product)), atol=1e-12)


def test_fans_of_a_convolution() -> None:
    assert nn.init.fans((8, 3, 5, 5)) == (75, 200)


def test_buffers_and_modes() -> None:
    net = Net()
    net.rest.register_buffer("mean", [1.0, 2.0])
    assert dict(net.named_buffers()).keys() == {"rest.mean"}
    net.rest.mean = net.rest.mean * 2
    state = net.state_dict()
    np.testing.assert_array_equal(state["rest.mean"], [2, 4])
    twin = Net()
    twin.rest.register_buffer("mean", [0.0, 0.0])
    twin.load_state_dict(state)
    np.testing.assert_array_equal(twin.rest.mean, [2, 4])
    twin.load_state_dict({"shift": np.array([7.0, 8.0]), "other": np.ones(1)}, strict=False)
    np.testing.assert_array_equal(twin.shift.data, [7, 8])
    assert net.training
    net.eval()
    assert not any(m.training for _, m in net.named_modules())
    net.train()
    assert all(m.training for _, m in net.named_modules())
    with pytest.raises(AttributeError, match="Sequential: register_buffer: the name 'mean' is already used"):
        net.rest.register_buffer("mean", [1.0])
    with pytest.raises(AttributeError, match="Net has no attribute 'nothing'"):
        _ = net.nothing


def test_modules_in_a_list_are_refused() -> None:
    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = [nn.Linear(2, 2), nn.ReLU()]

    with pytest.raises(
        TypeError, match=r"Listed: layers is a list that contains modules or parameters, which would not be found"
    ):
        Listed()


def test_seed_makes_layers_reproducible() -> None:
    nn.init.seed(5)
    a = nn.Linear(3, 3).state_dict()
    nn.init.seed(5)
    b = nn.Linear(3, 3).state_dict()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])
    with pytest.raises(ShapeError, match=r"init: expected a weight of shape \(in, out\) or .*got \(3,\)"):
        nn.init.he_normal()((3,), np.random.default_rng())
