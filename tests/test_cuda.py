"""On a GPU, or on the stand-in for one: every op, devices by name, training without waiting."""

from __future__ import annotations

import contextlib
import pickle
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorgrad
from tensorgrad import Tensor, backend, draw, nn, optim
from tensorgrad.errors import CompileError, DeviceError, LabelError, MissingDependencyError
from tensorgrad.nn import functional as F
from tensorgrad.op import REGISTRY
from tests.cuda.fake_cupy import Counts
from tests.cuda.gpu import Gpu, using

pytestmark = pytest.mark.usefixtures("gpu")


@pytest.fixture(params=["stand-in", "cuda"])
def gpu(request: pytest.FixtureRequest) -> Iterator[Gpu]:
    with using(request.param) as found:
        yield found


@pytest.mark.parametrize("name", sorted(REGISTRY))
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
    assert float(x[1, 0]) == 3
    again = pickle.loads(pickle.dumps(x.detach()))
    np.testing.assert_array_equal(again.numpy(), x.numpy())


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cuda:99", r"device: there is no 'cuda:99', only \d+ GPUs?, from 'cuda:0' on"),
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
    with pytest.raises(MissingDependencyError, match=r"device 'cuda' needs CuPy: pip install 'tensorgrad\[cuda13\]'"):
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
    y = (x.to("cuda") ** 2).to("cuda:1").exp().to("cpu")
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
    "SGD": lambda p: optim.SGD(p, lr=0.1),
    "momentum": lambda p: optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "Adam": lambda p: optim.Adam(p, lr=0.01),
    "AdamW": lambda p: optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "RMSprop": lambda p: optim.RMSprop(p, lr=0.01),
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


def test_a_captured_step_is_one_launch(gpu: Gpu) -> None:
    """Besides copies of the two arguments, and of the loss."""
    if gpu.real:
        pytest.skip("launches are counted by the stand-in")
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
