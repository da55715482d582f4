"""vmap on a GPU, or on the stand-in for one: as on the CPU, and without a way across."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tensorgrad import Tensor, func, nn
from tensorgrad.errors import BatchError
from tensorgrad.nn import functional as F
from tensorgrad.op import REGISTRY
from tests.cuda.gpu import Gpu, using
from tests.test_vmap import OURS, several

pytestmark = pytest.mark.usefixtures("gpu")


@pytest.fixture(params=["stand-in", "cuda"])
def gpu(request: pytest.FixtureRequest) -> Iterator[Gpu]:
    with using(request.param) as found:
        yield found


@pytest.mark.every(4)
@pytest.mark.parametrize("name", [name for name in OURS if name not in ("keep_mask", "sparse_matmul", "to_device")])
def test_every_op(name: str) -> None:
    op = REGISTRY[name]
    for seed in range(2):
        rng = np.random.default_rng(seed)
        args, attrs = op.sample(rng)
        if any(a.dtype == bool for a in args):
            continue
        own = [bool(rng.random() < 0.7) for _ in args]
        own[0] = own[0] or not any(own)
        axes = tuple(0 if is_own else None for is_own in own)
        arrays = [several(a, rng) if is_own else a for a, is_own in zip(args, own, strict=True)]
        here, there = (
            func.vmap(functools.partial(op, **attrs), axes)(*[Tensor(a, device=device) for a in arrays])
            for device in ("cpu", "cuda")
        )
        assert there.device == "cuda:0"
        np.testing.assert_allclose(there.numpy(), here.numpy(), rtol=1e-11, atol=1e-12)


def test_the_gradient_of_each_sample() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(5, 4)), rng.integers(0, 3, 5)
    found = []
    for device in ("cpu", "cuda"):
        model = nn.Sequential(nn.Linear(4, 6, rng=np.random.default_rng(1), dtype=float), nn.ReLU(), nn.Dropout(0.0))
        model.append(nn.Linear(6, 3, rng=np.random.default_rng(2), dtype=float))
        model.to(device)

        def loss(params: Any, x: Any, y: Any, model: nn.Module = model) -> Tensor:
            return F.cross_entropy(func.functional_call(model, params, x), y)

        params = {name: p.detach() for name, p in model.named_parameters()}
        found.append(func.vmap(func.grad(loss), (None, 0, 0))(params, Tensor(x, device=device), Tensor(y, device=device)))
    for name, g in found[0].items():
        assert found[1][name].device == "cuda:0"
        np.testing.assert_allclose(found[1][name].numpy(), g.numpy(), rtol=1e-11, atol=1e-13)


def test_values_are_refused() -> None:
    x = Tensor(np.ones((2, 3)), device="cuda")
    for fn in (lambda x: float(x.sum()), lambda x: x.cpu().numpy(), lambda x: Tensor(x), lambda x: x.__iadd__(1)):
        with pytest.raises(BatchError):
            func.vmap(fn)(x)
