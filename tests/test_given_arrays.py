"""Arrays of the caller's that change between forward and backward: the gradient at the old values, or an error."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tensorgrad
from tensorgrad import Tensor, checkpoint, nn, optim
from tensorgrad.core import backend, writes
from tensorgrad.errors import DTypeError, GraphError
from tensorgrad.nn import functional as F
from tensorgrad.op import REGISTRY, Op
from tests.cuda.gpu import using


class Box:
    """What NumPy can make an array of, without a copy: a column of a table."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self.array


def read_only(array: np.ndarray) -> np.ndarray:
    view = array[...]
    view.flags.writeable = False
    return view


# How an array gets into an operation: what the operation is given, and the memory that the caller can write to

Door = Callable[[np.ndarray], tuple[Any, np.ndarray]]


def with_data(array: np.ndarray) -> tuple[Any, np.ndarray]:
    t = Tensor(np.zeros_like(array))
    t.data = array
    return t, array


def lent(how: Callable[[Tensor], np.ndarray], of: Callable[[Tensor], Any] = lambda t: t) -> Door:
    def door(array: np.ndarray) -> tuple[Any, np.ndarray]:
        t = Tensor(array)
        return of(t), how(t)

    return door


DOORS: dict[str, Door] = {
    "array": lambda a: (a, a),
    "reversed": lambda a: (np.flip(np.flip(a)), a),
    "transposed": lambda a: ((b := a.copy("F")), b.T),
    "read-only view": lambda a: (read_only(a), a),
    "container": lambda a: (Box(a), a),
    "DLPack": lambda a: (tensorgrad.from_dlpack(a), a),
    ".data = ": with_data,
    ".data": lent(lambda t: t.data),
    ".numpy()": lent(lambda t: t.numpy()),
    "np.asarray": lent(np.asarray),
    "detached": lent(lambda t: t.detach().numpy()),
    "a view of it": lent(lambda t: t.reshape(-1).numpy()),
    "what was detached": lent(lambda t: t.numpy(), lambda t: t.detach()),
    "what was reshaped": lent(lambda t: t.numpy(), lambda t: t.reshape(t.shape)),
}


def overwrite(memory: np.ndarray) -> None:
    """Give every element another value of its kind: labels stay labels, masks masks, and each is another one."""
    if memory.dtype == bool:
        memory[...] = ~memory
    elif memory.dtype.kind in "iu":
        memory[...] = memory.max(initial=0) - memory
    else:
        memory[...] = 0.5 * memory[..., ::-1] + 0.125 if memory.ndim else memory + 1


def gradients(
    op: Callable[..., Any], args: tuple[Any, ...], attrs: dict[str, Any], i: int, j: int, door: Door, change: bool, twice: bool
) -> list[np.ndarray]:
    """Those with respect to argument j, argument i coming through a door and changing after the forward pass, if it is to."""
    given, memory = door(args[i].copy())
    leaf = Tensor(args[j], True)
    called = [given if k == i else leaf if k == j else a for k, a in enumerate(args)]
    y = op(*called, **attrs)
    weight = Tensor(np.cos(np.arange(y.size)).reshape(y.shape).astype(y.dtype))
    loss = (y * weight).sum()
    if change:
        overwrite(memory)
    (g,) = tensorgrad.grad(loss, leaf, create_graph=twice, allow_unused=True)
    if not twice or g is None or not g.requires_grad:
        return [] if g is None else [g.numpy().copy()]
    first = g.numpy().copy()
    (h,) = tensorgrad.grad((g * g).sum(), leaf, allow_unused=True)
    return [first] if h is None else [first, h.numpy().copy()]


def agree(op: Callable[..., Any], args: tuple[Any, ...], attrs: dict[str, Any], i: int, j: int, name: str) -> int:
    """Whether the gradients are those at the old values (1), or are refused (0); anything else fails."""
    refused = 0
    for twice in (False, True):
        expected = gradients(op, args, attrs, i, j, DOORS[name], False, twice)
        try:
            found = gradients(op, args, attrs, i, j, DOORS[name], True, twice)
        except GraphError as error:
            assert "changed" in str(error)  # noqa: PT017
            refused += 1
            continue
        assert len(found) == len(expected)
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_array_equal(a, b, err_msg=f"argument {i} by {name}, gradient of {j}, twice={twice}")
    return 2 - refused


def floating(a: Any) -> bool:
    return isinstance(a, np.ndarray) and a.dtype.kind == "f"


def sweep(op: Callable[..., Any], args: tuple[Any, ...], attrs: dict[str, Any], data: Callable[[int], bool]) -> int:
    """Every argument as an array of the caller's, every other one as what the gradient is asked of."""
    arrays = [i for i, a in enumerate(args) if isinstance(a, np.ndarray) and a.size]
    pairs = [(i, j) for i in arrays for j in arrays if i != j and floating(args[j]) and not data(j)]
    ways = [(i, j, name) for i, j in pairs for name in DOORS if name != "container" or floating(args[i])]
    return sum(agree(op, args, attrs, i, j, name) for i, j, name in ways)


DIFFERENTIABLE = [op for op in REGISTRY.values() if op.backward is not None and not op.calls]


@pytest.mark.parametrize("op", DIFFERENTIABLE, ids=lambda op: op.name)
def test_operations(op: Op) -> None:
    args, attrs = op.sample(np.random.default_rng(3), (2, 3))
    sweep(op, args, attrs, op.is_data)


Z, P = np.array([[0.5, -1.0, 2.0], [1.0, 0.25, -0.5]]), np.array([[0.2, 0.5, 0.3], [0.6, 0.1, 0.3]])
LABELS, WEIGHTS = np.array([0, 2]), np.array([1.0, 2.0, 0.5])
IMAGES, KERNELS = np.cos(np.arange(32.0)).reshape(1, 2, 4, 4), np.sin(np.arange(24.0)).reshape(3, 2, 2, 2)

# Functions of several operations: the arguments, and which of them a gradient is asked of
FUNCTIONS: dict[str, tuple[Callable[..., Any], tuple[Any, ...], int]] = {
    "cross_entropy": (F.cross_entropy, (Z, LABELS), 0),
    "cross_entropy of probabilities": (F.cross_entropy, (Z, P), 0),
    "cross_entropy, weighted": (F.cross_entropy, (Z, LABELS, WEIGHTS), 0),
    "cross_entropy, smoothed": (lambda z, t, w: F.cross_entropy(z, t, w, label_smoothing=0.1), (Z, LABELS, WEIGHTS), 0),
    "cross_entropy, some ignored": (lambda z, t: F.cross_entropy(z, t, ignore_index=2), (Z, LABELS), 0),
    "nll_loss": (F.nll_loss, (np.log(P), LABELS, WEIGHTS), 0),
    "mse_loss": (F.mse_loss, (Z, P), 0),
    "l1_loss": (F.l1_loss, (Z, P), 0),
    "huber_loss": (F.huber_loss, (Z, P), 0),
    "kl_div": (F.kl_div, (np.log(P), P[::-1].copy()), 0),
    "binary_cross_entropy": (F.binary_cross_entropy_with_logits, (Z, P, P + 1), 0),
    "softmax by hand": (lambda z, y: -(y * z.softmax().log()).sum(axis=1).mean(), (Z, P), 0),
    "linear": (F.linear, (Z, Z.T.copy(), LABELS.astype(float)), 1),
    "linear, its input": (F.linear, (Z, Z.T.copy(), LABELS.astype(float)), 0),
    "layer_norm": (lambda x, w, b: F.layer_norm(x, 3, w, b), (Z, WEIGHTS, WEIGHTS), 0),
    "embedding": (F.embedding, (LABELS, np.cos(np.arange(12.0)).reshape(4, 3)), 1),
    "conv2d": (F.conv2d, (IMAGES, KERNELS), 1),
    "conv2d, its input": (F.conv2d, (IMAGES, KERNELS), 0),
    "where": (tensorgrad.where, (Z > 0, Z, P), 1),
    "clip": (lambda x, a: tensorgrad.clip(x, a, 1.5), (Z, np.array(-0.75)), 0),
    "a factor without axes": (lambda x, a: (x * x).sum() * a, (Z, np.array(3.0)), 0),
    "a divisor without axes": (lambda x, a: -(P * x.log_softmax()).sum() / a, (Z, np.array(3.0)), 0),
    "an index": (lambda x, i: x[i] * x[i], (Z, np.array([0, 0])), 0),
    "a mask": (lambda x, i: x[i] * x[i], (Z, Z > 0), 0),
    "take_along_axis": (lambda x, i: tensorgrad.take_along_axis(x, i, 1), (Z, np.array([[0, 2], [1, 1]])), 0),
    "einsum": (lambda x, y: tensorgrad.einsum("ij,kj->ik", x, y), (Z, P), 0),
    "tensordot": (lambda x, y: tensorgrad.tensordot(x, y, 1), (Z, P.T.copy()), 0),
    "a recomputed segment": (lambda x, y: checkpoint(lambda a, b: (a * b).exp() * b, x, y), (Z, P), 0),
    "arithmetic before": (lambda x, y: (tensorgrad.mul(y, 1.0) if isinstance(y, Tensor) else y) * x * x, (Z, P), 0),
    "all at once": (lambda x, y, w: ((x * y).tanh() @ w).exp(), (Z, P, WEIGHTS), 0),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name: str) -> None:
    function, args, j = FUNCTIONS[name]
    for i, door in itertools.product(range(len(args)), DOORS):
        if i != j and (door != "container" or (floating(args[i]) and args[i].ndim == 2)):
            agree(function, args, {}, i, j, door)


def test_a_rule_that_reads_an_array_has_a_copy() -> None:
    """The gradient is that at the old values, not only an error."""
    z, labels = Tensor(Z, True), LABELS.copy()
    loss = F.cross_entropy(z, labels)
    labels[:] = 2 - labels
    loss.backward()
    soft = np.exp(Z) / np.exp(Z).sum(1, keepdims=True)
    np.testing.assert_allclose(z.grad.data, (soft - np.eye(3)[LABELS]) / 2, rtol=1e-12)


def test_a_buffer_that_is_used_again() -> None:
    model, buffer, total = nn.Linear(2, 1), np.empty((1, 2), np.float32), 0
    for row in ([1.0, 2.0], [3.0, 4.0]):
        buffer[:] = row
        total = total + model(buffer).sum()
    total.backward()
    np.testing.assert_array_equal(model.weight.grad.numpy().ravel(), [4, 6])


# A Tensor's memory, lent after it was read

LATER: dict[str, Callable[[Tensor], Any]] = {
    ".data[...] =": lambda t: t.data.__setitem__(..., 5.0),
    ".data +=": lambda t: setattr(t, "data", t.data.__iadd__(1.0)),
    ".numpy()[0] =": lambda t: t.numpy().__setitem__(0, 5.0),
    "np.asarray": lambda t: np.asarray(t.detach()).__setitem__(0, 5.0),
    "np.from_dlpack": lambda t: np.from_dlpack(t.detach()).__setitem__(0, 5.0),
    "a view of a view": lambda t: t.data[::-1][1:].__setitem__(0, 9.0),
    "memoryview": lambda t: memoryview(t.data).__setitem__(0, 5.0),
    "np.add.at": lambda t: np.add.at(t.detach(), [0, 0], 1.0),
    "out=": lambda t: np.multiply(t.detach(), 2.0, out=t.detach()),
    "np.subtract, out": lambda t: np.subtract(t.detach(), 2.0, t.detach()),
    "np.copyto": lambda t: np.copyto(t.numpy(), 5.0),
    "np.put": lambda t: np.put(t.numpy(), [0], 5.0),
    "np.putmask": lambda t: np.putmask(t.numpy(), [True, False, True], 5.0),
    "np.place": lambda t: np.place(t.numpy(), [True, False, True], [5.0]),
    "fill": lambda t: t.numpy().fill(5.0),
    "sort": lambda t: t.numpy().sort(),
    "flat": lambda t: t.numpy().flat.__setitem__(0, 5.0),
    "detach()[...] =": lambda t: t.detach().__setitem__(0, 5.0),
    "detach() *=": lambda t: t.detach().__imul__(2.0),
}


@pytest.mark.parametrize("way", LATER)
@pytest.mark.parametrize("what", ["operand", "leaf", "result", "view"])
def test_written_to_after_it_was_read(way: str, what: str) -> None:
    x, c = Tensor(np.array([3.0, 1.0, 2.0]), True), Tensor(np.array([3.0, 1.0, 2.0]))
    y = x.exp()
    read = {"operand": c, "leaf": x, "result": y, "view": c}[what]
    loss = (y * (c.reshape(3, 1).reshape(3) if what == "view" else c) * x * x).sum()
    LATER[way](read)
    with pytest.raises(GraphError, match=r"backward: (mul|exp) \(3,\), recorded at test_given_arrays.*changed in place later"):
        loss.backward()
    assert x.grad is None


@pytest.mark.parametrize("again", [False, True])
def test_written_to_while_it_is_held(again: bool) -> None:
    """What was lent when the operation was recorded was copied; what was lent after it is looked at before the pass."""
    x, c = Tensor(np.array([3.0, 1.0, 2.0]), True), Tensor(np.array([3.0, 1.0, 2.0]))
    held = c.numpy() if again else None
    loss = (x * c).sum()
    held = c.numpy() if held is None else held
    held[0] = 5.0
    if not again:
        with pytest.raises(GraphError, match=r"mul \(3,\), .* changed in place later: argument 1 \(3,\)"):
            loss.backward()
        loss = (x * c).sum()
        held[0] = 3.0
    loss.backward()
    np.testing.assert_array_equal(x.grad.data, [3 if again else 5, 1, 2])


def test_data_that_is_set_to_itself() -> None:
    """`t.data -= v` sets it to the array that was lent: no other one, which everybody would have for good."""
    t = Tensor(np.ones(3), True)
    memory, count = t._data, len(writes.shared)
    t.data -= 0.5
    t.data = t.data[...]
    assert t._data is memory
    assert len(writes.shared) == count
    t.data = t.data[::-1]
    assert t._data is not memory
    with pytest.raises(DTypeError, match=r"\.data: expected an array, got 'text'"):
        t.data = "text"


@pytest.mark.parametrize("way", LATER)
def test_written_to_between_passes(way: str) -> None:
    """Memory that is lent, and was written to, before the forward pass is nobody's business."""
    x, c = Tensor(np.array([3.0, 1.0, 2.0]), True), Tensor(np.array([3.0, 1.0, 2.0]))
    for _ in range(3):
        for t in (x, c):
            LATER[way](t)
        loss = (x * c * x).sum()
        (g,) = tensorgrad.grad(loss, x)
        np.testing.assert_array_equal(g.data, 2 * x.data * c.data)


def test_another_array_in_a_tensor() -> None:
    """What was read is still there; a gradient of the gradient, which would read the new one, is refused."""
    x = Tensor(np.array([2.0, 3.0]), True)
    loss = (x**3).sum()
    x.data = np.array([7.0, 7.0])
    (g,) = tensorgrad.grad(loss, x, retain_graph=True)
    np.testing.assert_array_equal(g.data, [12, 27])
    with pytest.raises(GraphError, match=r"power \(2,\), recorded at .*, read a Tensor \(2,\) that was changed later"):
        tensorgrad.grad(loss, x, create_graph=True)
    mine = np.array([1.0, 2.0])
    x.data = mine
    loss = (x**3).sum()
    mine[:] = 5.0
    (g,) = tensorgrad.grad(loss, x)
    np.testing.assert_array_equal(g.data, [3, 12])


def test_the_gradient_that_a_recorded_pass_begins_with() -> None:
    x, v = Tensor(np.array([2.0, 3.0]), True), np.array([1.0, 1.0])
    (g,) = tensorgrad.grad(x**3, x, v, create_graph=True)
    v[:] = 100.0
    (h,) = tensorgrad.grad(g.sum(), x)
    np.testing.assert_array_equal(h.data, [12, 18])


def test_what_a_hook_returns() -> None:
    x, v = Tensor(np.array([2.0, 3.0]), True), np.array([1.0, 1.0])
    y = x**3
    y.register_hook(lambda g: v)
    (g,) = tensorgrad.grad(y.sum(), x, create_graph=True)
    v[:] = 100.0
    (h,) = tensorgrad.grad(g.sum(), x)
    np.testing.assert_array_equal(h.data, [12, 18])


# Segments that are computed again


@pytest.mark.parametrize("how", ["labels", "added", "index", "parameter", "parameter, raw", "parameter, lent", "number"])
def test_what_a_recomputed_segment_reads_besides_its_arguments(how: str) -> None:
    x, w, labels, added, index = Tensor(Z, True), Tensor(Z.T.copy(), True), LABELS.copy(), Z.copy(), np.array([0, 1])
    numbers, lent = [2.0], w.data if how == "parameter, lent" else None

    def segment(z: Tensor) -> Tensor:
        return F.cross_entropy(((z + added).exp() * numbers[0])[index] @ w, labels % 2)

    def change() -> None:
        if how == "parameter":
            with tensorgrad.no_grad():
                w.__imul__(2.0)
        elif how == "parameter, raw":
            w.data[0] = 3.0
        elif lent is not None:
            lent[0] = 3.0
        elif how == "number":
            numbers[0] = 3.0
        else:
            overwrite({"labels": labels, "added": added, "index": index}[how])

    expected = tensorgrad.grad(segment(x), [x, w])
    loss = checkpoint(segment, x)
    for a, b in zip(tensorgrad.grad(loss, [x, w], retain_graph=True), expected, strict=True):
        np.testing.assert_array_equal(a.data, b.data)
    if how == "labels":
        labels[:] = [1, 0]
    else:
        change()
    with pytest.raises(
        GraphError, match=r"checkpoint: (a parameter that the function reads was changed|the function computed)"
    ):
        loss.backward()


# What it costs, and what is kept


def test_nothing_is_watched_once_it_is_over() -> None:
    gc.collect()
    before = len(writes.loans)
    model = nn.Linear(3, 2)
    optimiser = optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        held = [model.weight.data, model.bias.numpy()]
        F.cross_entropy(model(Z.astype(np.float32)), LABELS % 2).backward()
        optimiser.step()
        assert model.weight.data is held[0]
    assert len(writes.loans) == before + 1  # parameters share their memory
    del held
    assert len(writes.loans) == before


def test_what_is_lent_is_compared_only_while_a_graph_may_have_kept_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """To look at the values of a large Tensor costs nothing between training steps."""
    monkeypatch.setattr(writes, "_earlier", [])
    monkeypatch.setattr(writes, "alive", writes.Alive())
    first, second, third, w = (Tensor(np.ones(5), i == 3) for i in range(4))
    held = first.data
    loss = (w * w).sum()
    held = [held, second.data]
    loans = [writes.loans[id(writes.owner_of(a))][0] for a in held]
    assert [loan.contents is None for loan in loans] == [True, False]
    loss.backward()
    writes.check_loans()
    held.append(third.data)
    loans.append(writes.loans[id(writes.owner_of(held[2]))][0])
    assert [loan.contents for loan in loans] == [None, None, None]


def test_a_rule_keeps_no_copy_of_what_it_does_not_read() -> None:
    x, a = Tensor(Z, True), P.copy()
    assert (x + a).node.inputs[1]._data is a  # type: ignore[union-attr]
    assert (x * a).node.inputs[1]._data is not a  # type: ignore[union-attr]
    with tensorgrad.no_grad():
        assert (x * a).node is None


# The result of a compiled function, whose gradient is found by running it once more


@pytest.mark.filterwarnings("ignore:compile")
@pytest.mark.parametrize(
    "what", ["argument", "array", "index", "Tensor", "Tensor, raw", "parameter", "parameter, raw", "nothing"]
)
def test_what_a_compiled_function_reads(what: str) -> None:
    w, c, a, index = Tensor([1.0, 2.0], True), Tensor([3.0, 4.0]), np.array([3.0, 4.0], np.float32), np.array([0, 1])
    f = tensorgrad.compile(lambda x: (x * w * w * a * c)[index].sum())
    for _ in range(3):
        x = np.ones(2, np.float32)
        y = f(x)
        w.grad = None
        y.backward()
        np.testing.assert_array_equal(w.grad.data, [18, 64])
    y = f(x)
    if what in ("argument", "array", "index"):
        overwrite({"argument": x, "array": a, "index": index}[what])
    elif what.endswith("raw"):
        (c if what.startswith("T") else w).data[...] = 7.0
    elif what != "nothing":
        with tensorgrad.no_grad():
            (c if what == "Tensor" else w).__imul__(2.0)
    w.grad = None
    if what in ("nothing", "argument"):
        y.backward()
        np.testing.assert_array_equal(w.grad.data, [18, 64])
    else:
        with pytest.raises(GraphError, match="changed"):
            y.backward()


# On a GPU, or on the stand-in for one


@pytest.mark.parametrize("gpu", ["stand-in", "cuda"])
@pytest.mark.parametrize("way", ["operand", "labels", ".data", ".data, held", ".data = ", "operand, unread"])
def test_on_a_gpu(gpu: str, way: str) -> None:
    """Whether it is a copy that the rule has, or it is found out."""
    with using(gpu):
        xp = backend.cupy()
        x, w = Tensor(Z, True, device="cuda"), Tensor(P, device="cuda")
        memory = xp.asarray(LABELS if way == "labels" else P)
        if way == ".data = ":
            w.data = memory
        held = w.data if way == ".data, held" else None

        def loss_of() -> Tensor:
            if way == "labels":
                return F.cross_entropy(x, memory)
            if way == "operand, unread":
                return ((x + memory) * x).sum()
            return (x * (memory if way == "operand" else w) * x).sum()

        expected = tensorgrad.grad(loss_of(), x)[0].numpy()
        loss = loss_of()
        target = memory if held is None and way != ".data" else w.data if held is None else held
        if way == "labels":
            target[...] = 2 - target
        else:
            target[...] = 7.0
        if way == ".data":  # lent after it was read
            with pytest.raises(GraphError, match="changed in place later"):
                loss.backward()
            return
        loss.backward()
        np.testing.assert_array_equal(x.grad.numpy(), expected)


@pytest.mark.parametrize("gpu", ["stand-in", "cuda"])
def test_what_is_broadcast_on_a_gpu_is_read_only(gpu: str) -> None:
    with using(gpu):
        t = Tensor([1.0, 2.0], device="cuda").broadcast_to((2, 2))
        with pytest.raises(GraphError, match=r"in-place change: this Tensor \(2, 2\) is read-only"):
            t *= 2.0


def test_what_was_written_before_a_segment_or_a_compiled_call_is_part_of_it() -> None:
    x, w = Tensor(np.array([1.0, 2.0]), True), Tensor(np.array([1.0, 2.0]), True)
    alive = (w * w).sum()  # it has kept the memory, so what is lent is compared
    held = w.data
    f = tensorgrad.compile(lambda t: (t * w * w).sum())
    for k in range(1, 4):
        held[...] = k
        checkpoint(lambda t: (t * w * w).sum(), x).backward()
        np.testing.assert_array_equal(w.grad.data, 2 * k * x.data)
        held[...] = k + 1
        w.grad = None
        f(x).backward()
        np.testing.assert_array_equal(w.grad.data, 2 * (k + 1) * x.data)
        w.grad = None
        p = x.softmax()
        lent = p.data
        lent[...] = 0.5
        logs = p.log()  # not evaluated by log_softmax, as what is there is no softmax any more
        np.testing.assert_array_equal(logs.data, np.log([0.5, 0.5]))
        with pytest.raises(GraphError, match=r"softmax \(2,\), .* needs a value that was changed in place later: its result"):
            logs.sum().backward()
    with pytest.raises(GraphError, match="changed in place later"):
        alive.backward()
