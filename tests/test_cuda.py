"""On a GPU, or on the stand-in for one: every op, devices by name, training without waiting."""

from __future__ import annotations

import contextlib
import functools
import gc
import pickle
import sys
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from tensorgrad.models import MLPClassifier

import tensorgrad
from tensorgrad import Tensor, data, draw, nn, optim, train
from tensorgrad.autograd.forward import Linearised
from tensorgrad.core import backend
from tensorgrad.errors import CompileError, DeviceError, LabelError, MissingDependencyError
from tensorgrad.kernels import cublas
from tensorgrad.nn import functional as F
from tensorgrad.op import REGISTRY
from tests import kinds
from tests.cuda.fake_cupy import Counts
from tests.cuda.gpu import Gpu, using

pytestmark = pytest.mark.usefixtures("gpu")


@pytest.fixture(params=["stand-in", "cuda"])
def gpu(request: pytest.FixtureRequest) -> Iterator[Gpu]:
    with using(request.param) as found:
        yield found


@pytest.mark.parametrize("name", sorted(REGISTRY.keys() - {"sparse_matmul"}))  # which is refused: see test_ops_sparse.py
def test_every_op_on_the_gpu_is_as_on_the_cpu(name: str) -> None:
    op = REGISTRY[name]
    for seed in range(3):
        rng = np.random.default_rng(seed)
        args, attrs = op.sample(rng)
        args = [np.asarray(a) if hasattr(a, "dtype") else a for a in args]
        here, there = ([Tensor(a, device=d) if hasattr(a, "dtype") else a for a in args] for d in ("cpu", "cuda"))
        if name == "to_device":
            continue
        for a, b in zip(here, there, strict=True):
            if isinstance(a, Tensor) and a.dtype.kind == "f" and op.backward is not None:
                i = next(i for i, x in enumerate(here) if x is a)
                if not op.is_data(i):
                    a.requires_grad_()
                    b.requires_grad_()
        x, y = (op(*inputs, **attrs) for inputs in (here, there))
        assert y.device == "cuda:0"
        np.testing.assert_allclose(y.numpy(), x.numpy(), rtol=1e-12)
        if y.requires_grad:
            moving = [(a, b, rng.normal(size=a.shape)) for a, b in zip(here, there, strict=True) if a.requires_grad]
            (expected,) = Linearised([x])({a: v for a, _, v in moving})
            for recorded in (False, True):
                tangents = {b: Tensor(v, device="cuda") for _, b, v in moving}
                (found,) = Linearised([y])(tangents if recorded else {b: t._data for b, t in tangents.items()})
                found = found.detach() if recorded else Tensor(found)
                assert found.device == "cuda:0"
                np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12, atol=1e-13)
            g = rng.normal(size=x.shape)
            x.backward(g)
            y.backward(Tensor(g, device="cuda"))
            for a, b in zip(here, there, strict=True):
                if isinstance(a, Tensor) and a.grad is not None:
                    np.testing.assert_allclose(b.grad.numpy(), a.grad.numpy(), rtol=1e-12, atol=1e-13)


# Devices by name


def test_devices_are_named_and_kept(gpu: Gpu) -> None:
    gpu.needs_two()
    x = Tensor([[1.0, 2], [3, 4]], True, device="cuda:1")
    assert x.device == "cuda:1"
    assert Tensor([1.0], device="cuda").device == "cuda:0"
    assert Tensor(x).device == "cuda:1"
    assert Tensor(x, device="cpu").device == "cpu"
    assert (x @ x).exp().sum().device == "cuda:1"
    assert repr(x) == "Tensor([[1., 2.],\n        [3., 4.]], device='cuda:1', requires_grad=True)"
    assert x.cpu().device == "cpu"
    assert x.cpu().cuda(1).device == "cuda:1"
    assert x.to(np.float64).dtype == np.float64
    assert x.to("cpu", "float16").dtype == np.float16
    assert x.to("float64").device == "cuda:1"
    assert Tensor([1, 2], dtype=int).to(x).device == "cuda:1"
    assert x.to("cuda:1") is x
    assert isinstance(x.numpy(), np.ndarray)
    assert x.tolist() == [[1, 2], [3, 4]]
    assert float(x.detach()[1, 0]) == 3
    again = pickle.loads(pickle.dumps(x.detach()))
    np.testing.assert_array_equal(again.numpy(), x.numpy())


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cuda:99", r"device: there is no 'cuda:99', only \d+ GPUs?, starting at 'cuda:0'"),
        ("tpu", "device: expected 'cpu', 'cuda' or 'cuda:1', got 'tpu'"),
        (0, "got 0"),
    ],
)
def test_devices_that_are_not_there(device: Any, message: str) -> None:
    with pytest.raises(DeviceError, match=message):
        Tensor([1.0], device=device)
    with pytest.raises(DeviceError, match=message):
        nn.Linear(2, 3).to(device)


def test_without_cupy_or_without_a_gpu_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    backend.use(None)
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(MissingDependencyError, match=r"device 'cuda' needs CuPy: pip install 'cupy-cuda13x\[ctk\]'"):
        Tensor([1.0], device="cuda")
    without = types.SimpleNamespace(cuda=types.SimpleNamespace(is_available=lambda: False))
    monkeypatch.setitem(sys.modules, "cupy", without)
    with pytest.raises(DeviceError, match="CuPy is installed, but finds no GPU"):
        Tensor([1.0], device="cuda")


def test_mixing_devices_is_an_error_that_names_both(gpu: Gpu) -> None:
    gpu.needs_two()
    net = nn.Sequential(nn.Identity(), nn.Linear(3, 2))
    here, there, elsewhere = (Tensor(np.ones((2, 3)), device=d) for d in ("cpu", "cuda", "cuda:1"))
    with pytest.raises(
        DeviceError, match=r"add: arrays on cpu and on cuda:0; move one .* got \(2, 3\) float64, \(2, 3\) float64 on"
    ):
        here + there
    with pytest.raises(DeviceError, match="mul: arrays on cuda:0 and on cuda:1"):
        there * elsewhere
    with pytest.raises(DeviceError, match=r"1\.linear: arrays on cuda:0 and on cpu"):
        net(there)
    with pytest.raises(DeviceError, match="backward: the gradient is on cpu, the Tensor on cuda:0"):
        Tensor(np.ones(2), True, device="cuda").exp().backward(np.ones(2))
    parameter = Tensor(np.ones(2), True, device="cuda")
    parameter.grad = Tensor(np.ones(2))
    with pytest.raises(DeviceError, match="arrays on cuda:0 and on cpu"):
        optim.SGD([parameter], lr=1).step()


def test_lists_and_numbers_go_to_the_device_of_the_others(gpu: Gpu) -> None:
    gpu.needs_two()
    x = Tensor([1.0, 2, 3], device="cuda:1")
    for other in ([1.0, 0, 2], np.float32(2), 2, True):
        y = x * other
        assert y.device == "cuda:1"
        np.testing.assert_array_equal(y.numpy(), np.array([1.0, 2, 3], np.float32) * np.asarray(other, np.float32))
    np.testing.assert_array_equal(x[[2, 0]].numpy(), [3, 1])
    np.testing.assert_array_equal(x[np.array([2, 0])].numpy(), [3, 1])


def test_gradients_flow_from_device_to_device(gpu: Gpu) -> None:
    gpu.needs_two()
    x = Tensor(np.array([1.0, 2.0, 3.0]), True)
    y = (x.to("cuda") ** 2)[::-1].to("cuda:1")[::-1].exp().to("cpu")
    g = np.array([1.0, -2.0, 0.5])
    y.backward(g)
    assert x.grad.device == "cpu"
    np.testing.assert_allclose(x.grad.numpy(), g * np.exp(x.numpy() ** 2) * 2 * x.numpy(), rtol=1e-13)


def test_a_graph_on_another_gpu_than_the_current_one(gpu: Gpu) -> None:
    gpu.needs_two()
    w = Tensor(np.arange(6.0).reshape(2, 3), True, device="cuda:1")
    (w @ w.T).tanh().sum().backward()
    v = Tensor(np.arange(6.0).reshape(2, 3), True)
    (v @ v.T).tanh().sum().backward()
    np.testing.assert_allclose(w.grad.numpy(), v.grad.numpy(), rtol=1e-13)


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.thorough)], ids=["eager", "compiled"])
def test_everything_on_another_gpu_than_the_current_one(gpu: Gpu, compiled: bool) -> None:
    gpu.needs_two()
    expected, state, _ = trained("cpu", "dense", "Adam")
    losses, found, run = trained("cuda:1", "dense", "Adam", compiled)
    np.testing.assert_allclose(losses, expected, rtol=2e-5)
    for name in state:
        np.testing.assert_allclose(found[name], state[name], rtol=1e-3, atol=2e-5)
    if compiled:
        assert run.plan.launches.captured, run.plan.launches.why_not
        assert "cuda:1" in str(run.plan)
    p = Tensor(np.array([3.0, 4.0]), True, device="cuda:1")
    for _ in range(2):
        (p * p).sum().backward()
    optim.clip_grad_norm([p], 10.0)
    optim.clip_grad_value([p], 7.0)
    np.testing.assert_allclose(p.grad.numpy(), [6.0, 7.0])
    q = p.detach()
    q[0] = 1.0
    q *= 2
    np.testing.assert_array_equal(q.numpy(), [2.0, 8.0])
    x, y = np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32), np.arange(20) % 3
    arrays = [(x, y), (Tensor(x, device="cuda:1"), Tensor(y, device="cuda:1"))]
    for given in arrays:
        model = small_net().to("cuda:1")
        loader = data.DataLoader(*given, batch_size=8, shuffle=True, rng=0, device="cuda:1")
        history = train.fit(model, F.cross_entropy, optim.SGD(model.parameters(), lr=0.1), loader, 2, compile=compiled)
        assert np.isfinite(history["loss"]).all()
        assert {p.device for p in model.parameters()} == {"cuda:1"}
    assert backend.current_gpu().id == 0


def test_wrong_labels_are_found_when_a_value_is_asked_for(gpu: Gpu) -> None:
    logits, labels = Tensor(np.zeros((3, 4), np.float32), True, device="cuda"), Tensor([0, 4, 1], dtype=int, device="cuda")
    with gpu.unattended():
        loss = F.cross_entropy(logits, labels)
        loss.backward()
    with pytest.raises(LabelError, match=r"a label is out of range, expected 0 to 3 \(found on cuda:0"):
        loss.item()
    assert Tensor(1.0, device="cuda").item() == 1
    F.embedding(Tensor([5], dtype=int, device="cuda"), Tensor(np.ones((2, 3)), device="cuda"))
    with pytest.raises(LabelError, match="embedding: an index is out of range, expected 0 to 1"):
        Tensor(1.0, device="cuda").numpy()


@pytest.mark.parametrize("what", ["embedding", "cross_entropy"])
def test_a_captured_step_finds_wrong_labels_too(what: str) -> None:
    table = Tensor(np.ones((3, 2), np.float32), device="cuda")
    step = tensorgrad.compile(lambda t: F.embedding(t, table).sum() if what == "embedding" else F.cross_entropy(table, t))
    right, wrong = (Tensor(t, dtype=int, device="cuda") for t in ([0, 1, 1], [0, 3, 1]))
    for _ in range(4):
        assert np.isfinite(step(right).item())  # the second call captures: there is nothing to be found then
    assert step.plan.launches.captured
    for _ in range(2):
        loss = step(wrong)
        with pytest.raises(LabelError, match="is out of range"):
            loss.item()
        assert np.isfinite(step(right).item())


# Modules and training


def small_net() -> nn.Sequential:
    nn.init.seed(1)
    return nn.Sequential(
        nn.BatchNorm1d(6), nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 3)
    )


def conv_net() -> nn.Sequential:
    nn.init.seed(2)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1),
        nn.BatchNorm2d(3),
        nn.SiLU(),
        nn.MaxPool2d(2),
        nn.AvgPool2d(1),
        nn.Flatten(),
        nn.Linear(27, 3),
    )


def embedding_net() -> nn.Sequential:
    nn.init.seed(3)
    return nn.Sequential(nn.Embedding(10, 4), nn.Flatten(), nn.Softplus(), nn.Linear(8, 3), nn.Tanh(), nn.Sigmoid(), nn.ELU())


NETS: dict[str, tuple[Any, Any]] = {
    "dense": (small_net, lambda rng: rng.normal(size=(16, 6)).astype(np.float32)),
    "convolutional": (conv_net, lambda rng: rng.normal(size=(8, 1, 6, 6)).astype(np.float32)),
    "embedding": (embedding_net, lambda rng: rng.integers(0, 10, (12, 2))),
}
OPTIMISERS: dict[str, Any] = {
    **{kind.__name__: functools.partial(kind, lr=0.01) for kind in kinds.OPTIMISERS},
    "SGD": lambda p: optim.SGD(p, lr=0.1),
    "momentum": lambda p: optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "AdamW": lambda p: optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "Adagrad": lambda p: optim.Adagrad(p, lr=0.1),
}


def trained(
    device: str, net: str, optimiser: str, compiled: bool = False, gpu: Gpu | None = None, steps: int = 6
) -> tuple[list[float], dict[str, Any], Any]:
    """Losses, the state, and the compiled step, after some steps, the last of which wait for nothing."""
    make, samples = NETS[net]
    rng = np.random.default_rng(0)
    x, model = samples(rng), make().to(device)
    y = rng.integers(0, 3, len(x))
    opt = OPTIMISERS[optimiser](list(model.parameters()))

    def step(x: Tensor, y: Tensor) -> Tensor:
        loss = F.cross_entropy(model(x), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss

    run = tensorgrad.compile(step) if compiled else step
    xb, yb = Tensor(x, device=device), Tensor(y, device=device)
    losses = []
    for i in range(steps):
        with contextlib.nullcontext() if gpu is None or i < 3 else gpu.unattended():  # by then everything is compiled
            losses.append(run(xb, yb))
    return [loss.item() for loss in losses], {k: Tensor(v).numpy() for k, v in model.state_dict().items()}, run


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize(
    ("net", "optimiser"), [("dense", o) for o in OPTIMISERS] + [("convolutional", "SGD"), ("embedding", "Adam")]
)
def test_training_on_the_gpu_is_as_on_the_cpu_and_waits_for_nothing(gpu: Gpu, net: str, optimiser: str, compiled: bool) -> None:
    expected, state, _ = trained("cpu", net, optimiser)
    losses, found, run = trained("cuda", net, optimiser, compiled, gpu)
    # float32, six steps: sums in another order
    np.testing.assert_allclose(losses, expected, rtol=2e-5)
    for name in state:
        np.testing.assert_allclose(found[name], state[name], rtol=1e-3, atol=2e-5)
    if compiled:
        assert run.plan.launches.captured, run.plan.launches.why_not
        assert str(run.plan).endswith("on cuda:0, one CUDA graph")


@pytest.mark.parametrize("gpu", ["stand-in"], indirect=True)  # which counts them
def test_a_captured_step_is_one_launch(gpu: Gpu) -> None:
    """Besides copies of the two arguments, and of the loss."""
    counted = {}
    for compiled in (False, True):
        model = small_net().to("cuda")
        opt = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

        def step(x: Tensor, y: Tensor, model: Any = model, opt: Any = opt) -> Tensor:
            loss = F.cross_entropy(model(x), y)
            opt.zero_grad()
            loss.backward()
            opt.step()
            return loss

        run = tensorgrad.compile(step) if compiled else step
        x, y = Tensor(np.ones((4, 6), np.float32), device="cuda"), Tensor([0, 1, 2, 0], dtype=int, device="cuda")
        for _ in range(4):
            Counts.clear()
            run(x, y)
        counted[compiled] = Counts.launches
    assert counted[True] == 4
    assert counted[False] > 30


def test_a_captured_step_asks_anew_for_what_changes() -> None:
    """The learning rate and Adam's corrections, as on the CPU."""
    results = []
    for device in ("cpu", "cuda"):
        p = Tensor(np.array([1.0, -2.0, 3.0]), True, device=device)
        opt = optim.Adam([p], lr=0.1)
        schedule = optim.StepLR(opt, 2, 0.5)

        @tensorgrad.compile
        def step(x: Tensor, p: Tensor = p, opt: Any = opt) -> Tensor:
            loss = ((p * x) ** 2).sum()
            opt.zero_grad()
            loss.backward()
            opt.step()
            return loss

        for i in range(8):
            step(Tensor(np.array([1.0, i, 0.5]), device=device))
            schedule.step()
        results.append(p.numpy())
    np.testing.assert_allclose(results[1], results[0], rtol=1e-12)


def test_moving_a_model_takes_its_optimiser_along(gpu: Gpu) -> None:
    gpu.needs_two()
    x, y = np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32), np.arange(8) % 3
    results = []
    for places in (("cpu", "cpu", "cpu"), ("cpu", "cuda", "cuda:1"), ("cuda", "cpu", "cuda")):
        model = small_net()
        opt = optim.Adam(model.parameters(), lr=0.01)
        for place in places:
            model.to(place)
            for _ in range(2):
                loss = F.cross_entropy(model(Tensor(x, device=place)), Tensor(y, device=place))
                opt.zero_grad()
                loss.backward()
                opt.step()
        assert {p.device for p in model.parameters()} == {backend.as_device(places[-1])}
        results.append({k: Tensor(v).numpy() for k, v in model.state_dict().items()})
    for other in results[1:]:
        for name, array in results[0].items():
            np.testing.assert_allclose(other[name], array, rtol=1e-3, atol=2e-5)


def test_states_move_between_devices(gpu: Gpu) -> None:
    gpu.needs_two()
    there, here = small_net().to("cuda:1"), small_net()
    here.load_state_dict({k: np.ones_like(v) for k, v in here.state_dict().items()})
    there.load_state_dict(here.state_dict())
    assert {backend.device_of(a) for a in there.state_dict().values()} == {"cuda:1"}
    for array in there.state_dict().values():
        assert (array.get() == 1).all()
    small_net().load_state_dict(there.state_dict())
    opts = [optim.Adam(m.parameters()) for m in (there, here)]
    for m, opt in zip((there, here), opts, strict=True):
        for p in m.parameters():
            p.grad = Tensor(np.full(p.shape, 0.5, np.float32), device=p.device)
        opt.step()
    opts[0].load_state_dict(opts[1].state_dict())
    opts[1].load_state_dict(opts[0].state_dict())
    assert backend.device_of(opts[0].state[0]["m"]) == "cuda:1"
    assert backend.device_of(opts[1].state[0]["m"]) == "cpu"


def test_clipping_on_the_gpu_waits_for_nothing(gpu: Gpu) -> None:
    p = Tensor(np.array([3.0, 4.0]), True, device="cuda")
    p.grad = Tensor(np.array([30.0, 40.0]), device="cuda")
    with gpu.unattended():
        norm = optim.clip_grad_norm([p], 5.0)
    assert norm.item() == pytest.approx(50)
    np.testing.assert_allclose(p.grad.numpy(), [3.0, 4.0])
    optim.clip_grad_value([p], 3.5)
    np.testing.assert_allclose(p.grad.numpy(), [3.0, 3.5])


# Random numbers


def test_dropout_draws_on_the_gpu(gpu: Gpu) -> None:
    x = Tensor(np.ones((50, 40), np.float32), device="cuda")
    nn.functional.seed(3)
    a, b = F.dropout(x, 0.3), F.dropout(x, 0.3)
    nn.functional.seed(3)
    with gpu.unattended():
        again = F.dropout(x, 0.3)
    np.testing.assert_array_equal(again.numpy(), a.numpy())
    assert (a.numpy() != b.numpy()).any()
    kept = (a.numpy() != 0).mean()
    assert abs(kept - 0.7) < 5 * np.sqrt(0.21 / x.size)
    rng = np.random.default_rng(1)
    c = F.dropout(x, 0.3, rng=rng)
    np.testing.assert_array_equal(F.dropout(x, 0.3, rng=np.random.default_rng(1)).numpy(), c.numpy())
    assert (F.dropout(x, 0.3, rng=rng).numpy() != c.numpy()).any()


def test_a_captured_step_draws_anew_and_follows_the_seed() -> None:
    x = Tensor(np.ones(1000, np.float32), device="cuda")

    @tensorgrad.compile
    def step(x: Tensor) -> Tensor:
        return F.dropout(x, 0.5)

    for _ in range(2):
        step(x)
    runs = []
    for _ in range(2):
        nn.functional.seed(7)
        runs.append([step(x).numpy() for _ in range(3)])
    assert step.plan.launches.captured
    for a, b in zip(*runs, strict=True):
        np.testing.assert_array_equal(a, b)
    assert len({a.tobytes() for a in runs[0]}) == 3
    nn.functional.seed(7)
    np.testing.assert_array_equal(F.dropout(x, 0.5).numpy(), runs[0][0])


# What cannot be captured


def test_moving_inside_of_a_compiled_step_is_refused() -> None:
    @tensorgrad.compile
    def step(x: Tensor) -> Tensor:
        return (x.to("cpu") * 2).sum()

    x = Tensor(np.ones(3), device="cuda")
    step(x)
    with pytest.raises(
        CompileError, match=r"a Tensor is moved from cuda:0 to cpu inside the step at test_cuda\.py:\d+; a plan runs"
    ):
        step(x)


def test_what_cannot_be_captured_is_replayed_without() -> None:
    @tensorgrad.compile
    def step(a: Tensor, b: Tensor) -> Tensor:
        return (tensorgrad.solve(a, b) * 2).sum()

    a, b = Tensor([[2.0, 0], [1, 4]], device="cuda"), Tensor([2.0, 3], device="cuda")
    for i in range(1, 5):
        assert step(a, b * i).item() == pytest.approx(i * 2 * (1 + 0.5))
    assert not step.plan.launches.captured
    assert "on cuda:0, not captured (" in str(step.plan)


@pytest.mark.parametrize("shape", [(3,), (4, 3), (2, 4, 3), ()])
def test_plans_on_the_gpu_give_what_the_step_gives(shape: tuple[int, ...]) -> None:
    """Elementwise functions of all layouts, reductions, views, products: what the compiler can meet."""

    def step(x: Tensor, w: Tensor, b: Tensor) -> Any:
        y = (x @ w + b).tanh() if x.ndim else x * b
        z = (y * y).sum(axis=-1, keepdims=True) if x.ndim else y
        return y / (z + 1), y.max(), (y.T if x.ndim > 1 else y) * 2, z.mean(), y.reshape(-1)[1:], y.exp().sum(axis=0)

    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=s) for s in (shape, (3, 3), (3,))]
    expected = step(*map(Tensor, arrays))
    compiled = tensorgrad.compile(step)
    for _ in range(4):
        found = compiled(*(Tensor(a, device="cuda") for a in arrays))
    assert compiled.plan.launches.captured
    for a, b in zip(found, expected, strict=True):
        assert a.device == "cuda:0"
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-12)


@pytest.mark.parametrize("name", ["matmul", "solve"])
def test_plans_follow_the_stream_that_they_are_called_on(name: str) -> None:
    """One that is captured, and one that cannot be. What a plan needs goes with it."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(64, 64)) + 9 * np.eye(64), rng.normal(size=(64, 64))
    expected = a @ b if name == "matmul" else np.linalg.solve(a, b)
    with backend.cupy().cuda.Stream(non_blocking=True):
        step = tensorgrad.compile(lambda a, b: getattr(tensorgrad, name)(a, b) * 2)
        there = Tensor(a, device="cuda")
        for i in range(6):
            found = step(there, Tensor(i * b, device="cuda"))
            np.testing.assert_allclose(found.numpy(), 2 * i * expected, rtol=1e-9, atol=1e-9)
    assert step.plan.launches.captured == (name == "matmul")
    before = len(cublas._handles)
    del step
    gc.collect()
    assert len(cublas._handles) == before - (name == "matmul")


def test_what_cupy_takes_in_another_way_than_numpy() -> None:
    """Smallest values in a plan, systems that share a matrix, a condition that is a number."""
    x = np.random.default_rng(0).normal(size=(4, 3))
    step = tensorgrad.compile(lambda x: (x.min(axis=0), x.min(), x.max(axis=1)))
    for _ in range(3):
        found = step(Tensor(x, device="cuda"))
    for a, b in zip(found, (x.min(axis=0), x.min(), x.max(axis=1)), strict=True):
        np.testing.assert_array_equal(a.numpy(), b)
    a, b = 3 * np.eye(3) + x[:3] / 4, np.random.default_rng(1).normal(size=(2, 3, 2))
    y = tensorgrad.solve(Tensor(a, device="cuda"), Tensor(b, device="cuda"))
    np.testing.assert_allclose(y.numpy(), np.linalg.solve(a, b), rtol=1e-12)
    chosen = tensorgrad.where(True, Tensor(x, device="cuda"), 0.0)
    np.testing.assert_array_equal(chosen.numpy(), x)


# Batches


def test_profiles_and_drawings_of_what_is_on_the_gpu(tmp_path: Path) -> None:
    model = small_net().to("cuda")
    x, y = Tensor(np.ones((4, 6), np.float32), device="cuda", name="x"), Tensor([0, 1, 2, 0], dtype=int, device="cuda")
    with tensorgrad.profile() as p:
        loss = F.cross_entropy(model(x), y)
        loss.backward(retain_graph=True)
    assert "gradient of linear" in str(p)
    for drawing in (draw.graph(loss, cost=True, values=True, backward=True), draw.graph(loss, cost=p)):
        page = drawing.save(tmp_path / "step.html").read_text()
        assert "softmax" in page


# Training and its data


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_loader_brings_batches_to_the_gpu(shuffle: bool) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(10, 3)).astype(np.float32), np.arange(10)
    here, there = (data.DataLoader(x, y, batch_size=4, shuffle=shuffle, rng=1, device=d) for d in ("cpu", "cuda"))
    on_the_gpu = data.DataLoader(Tensor(x, device="cuda"), Tensor(y, device="cuda"), batch_size=4, shuffle=shuffle, rng=1)
    for _ in range(2):
        batches = list(there)
        for a, b, c in zip(here, batches, on_the_gpu, strict=True):
            for array, moved, stayed in zip(a, b, c, strict=True):
                assert backend.device_of(moved) == backend.device_of(stayed) == "cuda:0"
                np.testing.assert_array_equal(moved.get(), array)
                np.testing.assert_array_equal(stayed.get(), array)
    back = data.DataLoader(Tensor(x, device="cuda"), batch_size=4, device="cpu")
    np.testing.assert_array_equal(np.concatenate([b for (b,) in back]), x)
    loop = iter(there)
    next(loop)
    assert there.state_dict()["position"] == 1  # the one that is ahead has not been handed out
    with pytest.raises(DeviceError, match="DataLoader: arrays on cpu and on cuda:0"):
        data.DataLoader(x, Tensor(y, device="cuda"))


@pytest.mark.parametrize("weighted", [False, True])
def test_training_loops_on_the_gpu(tmp_path: Path, weighted: bool) -> None:
    """From arrays in main memory; a checkpoint goes on with on either side."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 6)).astype(np.float32), rng.integers(0, 3, 50)
    arrays = (x, y, rng.random(50).astype(np.float32)) if weighted else (x, y)

    def fit(device: str, epochs: int, **options: Any) -> tuple[Any, dict[str, np.ndarray]]:
        model = small_net().to(device)
        optimiser = optim.Adam(model.parameters(), lr=0.01)
        loader = data.DataLoader(*arrays, batch_size=16, shuffle=True, rng=0, device=device)
        history = train.fit(
            model, F.cross_entropy, optimiser, loader, epochs, validation=(x, y), metrics=[train.metrics.accuracy],
            callbacks=[train.EarlyStopping(patience=9)], **options,
        )  # fmt: skip
        np.testing.assert_allclose(train.evaluate(model, F.cross_entropy, (x, y))["loss"], history["val_loss"][-1], rtol=1e-5)
        assert type(train.predict(model, x)) is np.ndarray
        return history, {k: Tensor(v).numpy() for k, v in model.state_dict().items()}

    expected, state = fit("cpu", 4)
    fit("cuda", 2, checkpoint=tmp_path / "run.npz")
    for device in ("cuda", "cpu"):
        history, found = fit(device, 4, resume=tmp_path / "run.npz")
        for column in ("loss", "val_loss", "accuracy"):
            np.testing.assert_allclose(history[column], expected[column], rtol=1e-4)
        for name, array in state.items():
            np.testing.assert_allclose(found[name], array, rtol=1e-3, atol=5e-5)


def test_a_record_goes_on_on_the_gpu_and_waits_for_nothing(gpu: Gpu) -> None:
    """In the middle of an epoch, with weights, whose sum is a Tensor."""
    loss, count = Tensor(2.0, device="cuda"), Tensor(3.0, device="cuda")
    record = train.record.Record(3)
    for _ in range(2):
        record.add(loss, count, None, None)
        with gpu.unattended():
            record.add(loss * 2, count / 3, None, None)
        record, before = train.record.Record(4), record
        record.load_state_dict(before.state_dict())
        if record.done == 4:
            break
    assert record.row({}) == {"loss": 2.5}


def test_dropout_goes_on_from_a_checkpoint_on_the_gpu(tmp_path: Path) -> None:
    x, y = np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32), np.arange(20) % 3

    def fit(epochs: int, **options: Any) -> dict[str, np.ndarray]:
        nn.init.seed(1)
        nn.functional.seed(4)
        model = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 3)).to("cuda")
        loader = data.DataLoader(x, y, batch_size=8, shuffle=True, rng=0, device="cuda")
        train.fit(model, F.cross_entropy, optim.SGD(model.parameters(), lr=0.1), loader, epochs, **options)
        return {k: Tensor(v).numpy() for k, v in model.state_dict().items()}

    whole = fit(4)
    fit(2, checkpoint=tmp_path / "run.npz")
    resumed = fit(4, resume=tmp_path / "run.npz")
    for name, array in whole.items():
        np.testing.assert_array_equal(resumed[name], array)


def test_estimators_on_the_gpu() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 5)).astype(np.float32)
    y = np.array(["a", "b", "c"])[rng.integers(0, 3, 60)]
    weights = rng.uniform(0.5, 2, 60)
    for options in ({}, {"early_stopping": True, "batch_size": 16, "dropout": 0.0}, {"solver": "lbfgs"}):
        here, there = (MLPClassifier((8,), max_iter=4, random_state=0, device=device, **options) for device in ("cpu", "cuda"))
        for model in (here, there):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                model.fit(x, y, weights)
        assert {p.device for p in there.module_.parameters()} == {"cuda:0"}
        np.testing.assert_allclose(there.loss_curve_, here.loss_curve_, rtol=1e-4)
        np.testing.assert_allclose(there.predict_proba(x), here.predict_proba(x), rtol=1e-2, atol=1e-3)
        np.testing.assert_allclose(there.input_gradient(x[:3]), here.input_gradient(x[:3]), rtol=1e-2, atol=1e-2)
        assert all(isinstance(w, np.ndarray) for w in there.coefs_ + there.intercepts_)
        there.coefs_ = here.coefs_
        there.intercepts_ = here.intercepts_
        np.testing.assert_allclose(there.to_sklearn().predict_proba(x), here.predict_proba(x), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(there.transform(x, layer=0), here.transform(x, layer=0), rtol=1e-4, atol=1e-5)


class Doubled:
    """An MPI of two ranks that have the same."""

    ERRORS_RETURN, THREAD_MULTIPLE, IN_PLACE = 0, 3, None
    Exception = RuntimeError
    sums = 0

    def __init__(self) -> None:
        self.COMM_WORLD, self.Dup = self, lambda: self
        self.Get_rank, self.Get_size, self.Query_thread = (lambda n=n: n for n in (0, 2, 0))
        self.Set_errhandler = lambda handler: None

    def Allreduce(self, _: None, array: np.ndarray) -> None:
        assert type(array) is np.ndarray
        array *= 2
        self.sums += 1

    def bcast(self, value: Any) -> Any:
        return value

    def allgather(self, value: Any) -> list[Any]:
        return [value, value]


def test_ranks_go_through_pinned_memory(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step is not captured then, says so, and is that of one process."""
    from tensorgrad.core.ranks import ranks
    from tensorgrad.distributed import nccl
    from tensorgrad.distributed.processes import Processes

    def trained() -> tuple[np.ndarray, Any]:
        tensorgrad.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).to("cuda")
        optimiser = optim.SGD(model, lr=0.1)

        @tensorgrad.compile
        def step(x: Tensor, y: Tensor) -> Tensor:
            loss = F.cross_entropy(model(x), y)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            return loss

        rng = np.random.default_rng(0)
        x, y = Tensor(rng.normal(size=(6, 4)).astype("f"), device="cuda"), Tensor(rng.integers(0, 2, 6), device="cuda")
        for _ in range(4):
            step(x, y)
        return np.concatenate([p.numpy().ravel() for p in model.parameters()]), step.plan

    alone, _ = trained()
    mpi = Doubled()
    monkeypatch.setattr(ranks, "group", Processes(mpi, 1.0))
    monkeypatch.setattr(nccl, "library", lambda: types.SimpleNamespace(available=True))
    with pytest.warns(RuntimeWarning, match="through main memory, not by NCCL: ranks 0 and 1 have the same GPU"):
        both, plan = trained()
    assert mpi.sums >= 4
    assert plan.launches.why_not == "ranks meet in it"
    np.testing.assert_allclose(both, alone, rtol=1e-5, atol=1e-6)  # float32; a part that is missing is a half
