"""Modules are called with keywords, have hooks, and walk over their parts."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

import tensorgrad
from tensorgrad import Tensor, nn, optim, train
from tensorgrad.errors import ArgumentError, CompileError, DTypeError
from tensorgrad.nn import functional as F

rng = np.random.default_rng(0)


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 2)

    def forward(self, x: Any, mask: Any = None, *, scale: Any = 1.0) -> Any:
        y = self.inner(x) * scale
        return y if mask is None else y * mask


def test_keywords_go_to_forward() -> None:
    net, x = Scaled(), rng.normal(size=(4, 3)).astype("f")
    mask = np.array([1.0, 0.0], np.float32)
    expected = net.inner(x).data * 2 * mask
    step = tensorgrad.compile(net)
    for call in (net, step, step, step, tensorgrad.compile(lambda x, **options: net(x, **options))):
        np.testing.assert_allclose(call(x, mask=mask, scale=2.0).data, expected, rtol=1e-6)
    assert not step.why_not
    with pytest.raises(TypeError, match="unexpected keyword argument 'masks'"):
        net(x, masks=mask)
    with pytest.raises(TypeError, match="unexpected keyword argument 'mask'"):
        nn.Sequential(net)(x, mask=mask)


def test_a_loss_module_takes_keywords_in_fit() -> None:
    """And is called, not only its forward: its hooks run with sample weights, too."""

    class Own(nn.Module):
        def forward(self, y: Any, t: Any, reduction: str = "mean") -> Any:
            return F.mse_loss(y, t, reduction=reduction)

    loss, net, x = Own(), nn.Linear(3, 1), rng.normal(size=(8, 3)).astype("f")
    loss.register_forward_hook(lambda module, args, result: result * 0)
    before = net.weight.data.copy()
    train.fit(net, loss, optim.SGD(net.parameters(), 0.1), (x, x[:, :1], np.ones(8, "f")), 1, progress=False)
    np.testing.assert_array_equal(net.weight.data, before)


def test_forward_hooks() -> None:
    net, x, seen = nn.Sequential(nn.Linear(3, 2), nn.ReLU()), rng.normal(size=(4, 3)).astype("f"), []
    plain = net(x).data
    look = net[0].register_forward_hook(lambda *given: seen.append(given))
    double = net.register_forward_hook(lambda module, args, y: y * 2)
    again = net.register_forward_hook(lambda module, args, y: y + 1)
    np.testing.assert_array_equal(net(x).data, plain * 2 + 1)  # one after the other
    ((module, args, result),) = seen
    assert module is net[0]
    assert args[0] is x
    np.testing.assert_array_equal(np.maximum(result.data, 0), plain)
    for twin in (copy.deepcopy(net), copy.copy(net)):
        np.testing.assert_array_equal(twin(x).data, plain)  # without hooks of its own
    double()
    double()
    np.testing.assert_array_equal(net(x).data, plain + 1)
    look(), again()
    np.testing.assert_array_equal(net(x).data, plain)
    assert len(seen) == 3  # that of a part, which copy.copy has as well
    with pytest.raises(DTypeError, match=r"Sequential\.register_forward_hook: expected a function of"):
        net.register_forward_hook(None)


@pytest.mark.parametrize("of", ["the whole", "a part"])
def test_compiled_steps_see_hooks_come_and_go(of: str) -> None:
    net, x = nn.Sequential(nn.Linear(3, 2), nn.ReLU()), rng.normal(size=(4, 3)).astype("f")
    owner = net if of == "the whole" else net[0]
    step, factor, number, kept = tensorgrad.compile(lambda x: net(x).sum()), Tensor(np.float32(2)), [2.0], []
    for act in (
        lambda: None,
        lambda: kept.append(owner.register_forward_hook(lambda module, args, y: y * factor)),
        lambda: factor.data.fill(3),
        lambda: kept.append(owner.register_forward_hook(lambda module, args, y: y + number[0])),
        lambda: number.__setitem__(0, 5.0),
        lambda: kept.pop()(),
        lambda: kept.pop()(),
    ):
        act()
        for _ in range(3):
            np.testing.assert_allclose(step(x).item(), net(x).sum().item(), rtol=1e-5)
        assert not step.why_not
    with pytest.raises(CompileError, match="register_forward_hook inside the step"):
        tensorgrad.compile(lambda x: net.register_forward_hook(lambda *a: None) and net(x))(x)


def test_walks_over_parts() -> None:
    shared = nn.ReLU()
    net = nn.Sequential({"a": nn.Sequential(nn.Linear(2, 2), shared), "b": shared, "c": shared, "d": nn.Linear(2, 1)})
    assert list(net.modules()) == [net, net[0], net[0][0], shared, net[3]]
    assert list(net.named_children()) == [("a", net[0]), ("b", shared), ("d", net[3])]
    assert list(net.children()) == [net[0], shared, net[3]]
    order: list[nn.Module] = []
    assert net.apply(order.append) is net
    assert [type(m).__name__ for m in order] == ["Linear", "Sequential", "ReLU", "Linear", "Sequential"]
    assert order[-1] is net


def test_freezing() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    assert net[0].requires_grad_(False) is net[0]
    net(np.ones((1, 2), "f")).sum().backward()
    assert [p.grad is None for p in net.parameters()] == [True, True, False, False]
    net.requires_grad_()
    assert all(p.requires_grad for p in net.parameters())
    with pytest.raises(ArgumentError, match=r"Sequential\.requires_grad_: expected True or False, got 'no'"):
        net.requires_grad_("no")
