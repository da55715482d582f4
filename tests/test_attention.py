"""Attention against sums written out and PyTorch's values; whole and in blocks, fused and plain, eager and compiled."""

from __future__ import annotations

import itertools
import re
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

import tensorgrad
from tensorgrad import Tensor, nn, ops
from tensorgrad.errors import ArgumentError, DTypeError, ShapeError
from tensorgrad.kernels import thresholds
from tensorgrad.nn import functional as F
from tensorgrad.ops.attention import attention_weights
from tensorgrad.testing import gradcheck
from tests.cuda.gpu import using
from tests.strategies import generators

GOLDEN = Path(__file__).parent / "golden" / "torch_attention.npz"  # golden/torch_attention.py has written it
N, L, E = 2, 3, 4
LAYERS: dict[str, Callable[[], nn.Module]] = {
    "heads": lambda: nn.MultiheadAttention(E, 2, batch_first=True, dtype="float64"),
    "heads_plain": lambda: nn.MultiheadAttention(E, 2, bias=False, dtype="float64"),
    "encoder": lambda: nn.TransformerEncoder(
        nn.TransformerEncoderLayer(E, 2, 5, batch_first=True, norm_first=True, activation="gelu", dtype="float64"),
        2,
        nn.LayerNorm(E, dtype="float64"),
    ),
    "encoder_layer": lambda: nn.TransformerEncoderLayer(E, 1, 5, batch_first=True, dtype="float64"),
    "decoder": lambda: nn.TransformerDecoder(nn.TransformerDecoderLayer(E, 2, 5, batch_first=True, dtype="float64"), 2),
}
STACKS = (nn.TransformerEncoder, nn.TransformerDecoder)  # which are made of a layer
CALLS: dict[str, Callable[..., Any]] = {
    "heads": lambda f, x, memory, m: f(x, memory, memory, m["padding"], False, m["causal"])[0],
    "heads_plain": lambda f, x, memory, m: f(x, x, x)[0],
    "encoder": lambda f, x, memory, m: f(x, m["causal"], m["padding"]),
    "encoder_layer": lambda f, x, memory, m: f(x),
    "decoder": lambda f, x, memory, m: f(x, memory, m["causal"], None, m["padding"]),
}
PADDING = np.array([[False, False, False], [False, False, True]])
MASKS = {"padding": PADDING, "causal": np.triu(np.ones((L, L), bool), 1)}


@pytest.mark.parametrize("name", LAYERS)
def test_values_and_gradients_of_torch(name: str) -> None:
    with np.load(GOLDEN) as file:
        golden = {key.partition("/")[2]: file[key] for key in file if key.startswith(f"{name}/")}
    layer = LAYERS[name]()
    layer.load_state_dict({k.partition("/")[2]: v for k, v in golden.items() if k.startswith("state/")}, layout="torch")
    layer.eval()
    x = Tensor(golden["x"], True)
    y = CALLS[name](layer, x, golden["memory"], MASKS)
    (y * y).sum().backward()
    np.testing.assert_allclose(y.data, golden["y"], rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(x.grad.data, golden["gx"], rtol=1e-10, atol=1e-12)
    for key, p in layer.named_parameters():
        g = golden[f"grad/{key}"]
        np.testing.assert_allclose(p.grad.data, g.T if g.ndim == 2 else g, rtol=1e-10, atol=1e-12, err_msg=key)


def plain(q: Any, k: Any, v: Any, mask: Any = None, keep: Any = None, *, causal: bool, scale: float, dropout: float) -> Any:
    """As it is defined, in operations that have rules of their own; no row may be without keys; of one mask, `keep`."""
    if dropout and keep is None:
        mask, keep = None, mask
    z = (q @ k.swapaxes(-1, -2)) * scale
    if mask is not None:
        z = ops.where(mask, z, -1e300) if mask.dtype == bool else z + mask
    if causal:
        z = ops.where(np.tri(q.shape[-2], k.shape[-2], dtype=bool), z, -1e300)
    p = ops.softmax(z)
    return (p if keep is None else ops.where(keep, p / (1 - dropout), 0)) @ v


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("queries", [1, 3, 9])
def test_kernels_and_numpy_give_the_same(queries: int, causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """On both sides of the size from which kernels are asked for, all queries at once and some at a time."""
    rng = np.random.default_rng(0)
    given = [rng.normal(size=(2, n, 4)).astype("f") for n in (queries, 5, 5)]
    found = []
    for kernel, block in itertools.product((0, 10**9), (thresholds.ATTENTION, 20)):
        monkeypatch.setattr(thresholds, "KERNEL", kernel)
        monkeypatch.setattr(thresholds, "ATTENTION", block)
        q, k, v = (Tensor(x, requires_grad=True) for x in given)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        (y * y).sum().backward()
        found.append([y.numpy(), *(x.grad.numpy() for x in (q, k, v))])
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [1, 4, thresholds.ATTENTION])
@given(rng=generators())
@settings(max_examples=20)
def test_blocks_fused_and_plain_agree(size: int, rng: np.random.Generator) -> None:
    """Values and gradients of everything; one query at a time, some, and all at once."""
    args, attrs = ops.attention.sample(rng, (1, 2, 3, 5))
    if len(args) > 3 and args[3].dtype == bool:
        args[3][..., 0] = True  # the first key can be seen by all
    leaves = [Tensor(a, a.dtype != bool) for a in args]
    found = []
    for f in (ops.attention, plain):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(thresholds, "ATTENTION", size)
            y = f(*leaves, **attrs)
            loss = (y * y * np.arange(1, y.size + 1).reshape(y.shape)).sum()
            found.append([y, *tensorgrad.grad(loss, [leaf for leaf in leaves if leaf.requires_grad])])
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a.data, b.data, rtol=1e-10, atol=1e-11)


def test_blocks_as_shipped() -> None:
    """So many keys that the queries do not fit into one block; float32, causal and not."""
    rng = np.random.default_rng(0)
    n = int(thresholds.ATTENTION**0.5) + 30
    q, k, v, g = (rng.normal(size=(n, 3)).astype("f") for _ in range(4))
    for causal in (False, True):
        results = []
        for dtype, f in (("f", ops.attention), ("d", partial(plain, dropout=0.0))):
            xs = [Tensor(a.astype(dtype), True) for a in (q, k, v)]
            y = f(*xs, causal=causal, scale=0.5)
            y.backward(g.astype(dtype))
            results.append([y.data, *[x.grad.data for x in xs]])
        for a, b in zip(*results, strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)


def test_memory_grows_with_the_number_of_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four times as many queries and keys, and no sixteen times as much memory, forward and backward."""
    monkeypatch.setattr(thresholds, "ATTENTION", 65_536)
    peaks = []
    for n in (500, 2_000):
        xs = [Tensor(np.ones((n, 2), "f"), True) for _ in range(3)]
        tracemalloc.start()
        ops.attention(*xs, causal=True).sum().backward()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 2 * peaks[0] < 2_000 * 2_000 * 4


@pytest.mark.parametrize("kind", [bool, float])
def test_queries_without_keys(kind: type) -> None:
    """Zeros, and zero gradients, in every way to them: fused, plain, in a layer, second derivatives."""
    rng = np.random.default_rng(0)
    keep = np.array([[True, False], [False, False], [True, True]])
    mask = keep if kind is bool else np.where(keep, 0.0, -np.inf)
    q, k, v = (Tensor(rng.normal(size=(n, 2)), True) for n in (3, 2, 2))
    y = ops.attention(q, k, v, mask)
    np.testing.assert_array_equal(y.data[1], 0)
    np.testing.assert_array_equal(y.data[0], v.data[0])
    (gq, gk) = tensorgrad.grad((y * y).sum(), [q, k], create_graph=True)
    np.testing.assert_array_equal(gq.data[1], 0)
    (gg,) = tensorgrad.grad((gq * gq).sum() + (gk * gk).sum(), q)
    assert np.isfinite(gg.data).all()
    np.testing.assert_array_equal(gg.data[1], 0)
    np.testing.assert_array_equal(attention_weights(q, k, mask).data[1], 0)
    gradcheck(lambda q, k, v: ops.attention(q, k, v, mask), (q.data, k.data, v.data), order=2)
    layer = nn.MultiheadAttention(2, 1)
    for need in (True, False):
        x = np.ones((3, 1, 2), "f")
        out, _ = layer(x, x, x, None, need, np.array([[True] * 3, [False] * 3, [False] * 3]))
        np.testing.assert_array_equal(out.data[0, 0], layer.out_proj.bias.data)
    assert F.scaled_dot_product_attention(q, np.ones((0, 2)), np.ones((0, 4))).shape == (3, 4)


def test_no_sequences_at_all() -> None:
    """A batch of none goes through every layer, forward and backward."""
    for kind in (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer):
        layer, x = kind(4, 2, 8), Tensor(np.ones((3, 0, 4), "f"), requires_grad=True)
        y = layer(x) if kind is nn.TransformerEncoderLayer else layer(x, x)
        y.sum().backward()
        assert y.shape == x.grad.shape == x.shape
        assert not layer.self_attn.in_proj_weight.grad.data.any()
    assert nn.MultiheadAttention(4, 2)(x, x, x)[1].shape == (0, 3, 3)


def test_causal_with_other_numbers_of_keys_and_a_mask_that_learns() -> None:
    rng = np.random.default_rng(0)
    for queries, keys in ((2, 4), (4, 2)):
        shapes = ((2, queries, 3), (keys, 3), (2, keys, 2), (queries, keys))
        xs = tuple(rng.uniform(-1, 1, s) for s in shapes)
        gradcheck(lambda *xs: ops.attention(*xs, causal=True), xs, order=2)


def test_dropout() -> None:
    rng = np.random.default_rng(0)
    q, k = rng.normal(size=(1, 3)), rng.normal(size=(4000, 3))
    full = F.scaled_dot_product_attention(q, k, np.ones((4000, 1)))
    np.testing.assert_allclose(full, 1)
    half = F.scaled_dot_product_attention(q, k, np.ones((4000, 1)), None, 0.5, rng=rng)
    assert 0.8 < half.item() < 1.2
    assert half.item() != 1
    np.testing.assert_array_equal(F.scaled_dot_product_attention(q, k, k, None, 1.0), 0)
    layer = nn.MultiheadAttention(4, 2, dropout=1.0)
    x = np.ones((3, 4), "f")
    for need in (True, False):
        np.testing.assert_array_equal(layer.train()(x, x, x, None, need)[0].data, np.zeros((3, 4)))
        assert layer.eval()(x, x, x, None, need)[0].data.any()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("blocked", [False, True])
def test_dropout_is_that_of_the_weights(causal: bool, blocked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the same draws it is dropout of all weights at once, and so are its gradients; no two draws are alike."""
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=(2, n, 4)) for n in (5, 6, 6))
    mask = rng.random((2, 1, 6)) < 0.8

    def whole(q: Any, k: Any, v: Any) -> Any:
        p = attention_weights(q, k, mask, causal=causal)
        return F.dropout(p, 0.4, rng=np.random.default_rng(1)) @ v

    def parts(q: Any, k: Any, v: Any) -> Any:
        return F.scaled_dot_product_attention(q, k, v, mask, 0.4, causal, rng=np.random.default_rng(1))

    if blocked:
        monkeypatch.setattr(thresholds, "ATTENTION", 24)
    found = []
    for f in (whole, parts):
        xs = [Tensor(x, True) for x in (q, k, v)]
        y = f(*xs)
        found.append([y.data, *[g.data for g in tensorgrad.grad((y * np.arange(4)).sum(), xs)]])
    gradcheck(parts, (q, k, v), order=2)
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)
    rng = np.random.default_rng(1)
    first, second = (F.scaled_dot_product_attention(q, k, v, None, 0.4, rng=rng) for _ in range(2))
    assert (first != second).any()


def test_a_compiled_step_drops_anew() -> None:
    rng = np.random.default_rng(0)
    q, k = rng.normal(size=(3, 4)), rng.normal(size=(50, 4))
    w = Tensor(rng.normal(size=(50, 2)), True)

    def step(q: Any, k: Any) -> Any:
        y = F.scaled_dot_product_attention(q, k, w, None, 0.5)
        return y, tensorgrad.grad(y.sum(), w)[0]

    F.seed(0)
    as_written = [step(Tensor(q), Tensor(k)) for _ in range(3)]
    F.seed(0)
    compiled = tensorgrad.compile(step)
    for y, g in as_written:
        found = compiled(q, k)
        np.testing.assert_allclose(found[0].data, y.data, rtol=1e-12)
        np.testing.assert_allclose(found[1].data, g.data, rtol=1e-12, atol=1e-14)
    assert not compiled.why_not


@pytest.mark.parametrize("name", LAYERS)
def test_compiled_steps(name: str) -> None:
    layer, rng = LAYERS[name](), np.random.default_rng(0)
    layer.eval()

    def loss(x: Any, memory: Any, padding: Any) -> Any:
        y = CALLS[name](layer, x, memory, {"padding": padding, "causal": MASKS["causal"]})
        total = (y * y).sum()
        total.backward()
        return total

    step = tensorgrad.compile(loss, keep_grads=True)
    for padding in (PADDING, PADDING, PADDING[::-1]):
        x, memory, results = rng.normal(size=(N, L, E)), rng.normal(size=(N, L, E)), []
        for f in (loss, step):
            layer.zero_grad()
            total = f(x, memory, padding)
            results.append([total.data, *[p.grad.data for p in layer.parameters()]])
        for a, b in zip(*results, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12)


def test_masks_of_heads() -> None:
    """Causal by name and by mask; booleans and numbers; one mask for each head; weights of each head."""
    rng = np.random.default_rng(0)
    layer, x = LAYERS["heads"](), rng.normal(size=(N, L, E))
    later = MASKS["causal"]
    expected, w = layer(x, x, x, PADDING, True, later)
    assert w.shape == (N, L, L)
    numbers = np.where(later, -np.inf, 0.0)
    per_head = np.broadcast_to(later, (N * 2, L, L))
    for padding, mask, causal in (
        (PADDING, None, True),
        (PADDING, numbers, False),
        (np.where(PADDING, -np.inf, 0.0), later, False),
        (PADDING, per_head, False),
        (PADDING.tolist(), later, True),
    ):
        for need in (True, False):
            found, _ = layer(x, x, x, padding, need, mask, True, causal)
            np.testing.assert_allclose(found.data, expected.data, rtol=1e-12)
    each = layer(x, x, x, PADDING, True, later, False)[1]
    assert each.shape == (N, 2, L, L)
    np.testing.assert_allclose(each.data.mean(1), w.data)
    one, _ = layer(x[0], x[0], x[0], None, True, later)
    np.testing.assert_allclose(one.data, expected.data[0], rtol=1e-12)


def test_on_a_gpu() -> None:
    """By the stand-in for one, with masks in lists."""
    rng, results = np.random.default_rng(0), []
    layer, x = nn.TransformerEncoderLayer(4, 2, 5, dropout=0.0, dtype="float64", rng=rng), rng.normal(size=(3, 2, 4))
    with using("stand-in"):
        for device in ("cpu", "cuda"):
            layer.to(device).zero_grad()
            y = layer(Tensor(x).to(device), None, PADDING.tolist(), True)
            (y * y * y).sum().backward()
            results.append([t.to("cpu").data for t in (y, *[p.grad for p in layer.parameters()])])
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12)


heads, Q = nn.MultiheadAttention(4, 2), np.ones((3, 2, 4), "f")


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: ops.attention(Q, Q[..., :3], Q),
            ShapeError,
            "attention: axis e is 4 in argument 0 (3, 2, 4) but 3 in argument 1 (3, 2, 3)",
        ),
        (lambda: ops.attention(Q, Q, Q[:, :1], causal=True), ShapeError, "axis s is 2 in argument 1 (3, 2, 4) but 1 in"),
        (
            lambda: F.scaled_dot_product_attention(Q, Q, Q, np.ones((3, 3), bool)),
            ShapeError,
            "scaled_dot_product_attention: the mask has shape (3, 3), expected a shape that broadcasts to (..., 2, 2)",
        ),
        (
            lambda: F.scaled_dot_product_attention(Q, Q, Q, np.ones((2, 2), int)),
            DTypeError,
            "scaled_dot_product_attention: the mask must have a boolean or floating dtype, got int64 of shape (2, 2)",
        ),
        (lambda: F.scaled_dot_product_attention(Q, Q, Q, None, 1.5), ArgumentError, "p must be between 0 and 1, got 1.5"),
        (lambda: ops.attention(Q, Q, Q, dropout=0.5), ArgumentError, "attention: dropout must be 0 without keep, got 0.5"),
        (
            lambda: ops.attention(Q, Q, Q, None, np.ones((3, 2, 2), bool)),
            ArgumentError,
            "dropout must be above 0, and at most 1",
        ),
        (lambda: ops.attention(Q, Q, Q, None, np.ones((2, 3)), dropout=0.5), ShapeError, "keep is float64 of shape (2, 3)"),
        (lambda: ops.attention(Q, Q, Q, causal=1), TypeError, "causal must be True or False, got 1"),
        (
            lambda: nn.MultiheadAttention(4, 3),
            ArgumentError,
            "MultiheadAttention: num_heads must divide embed_dim, got 3",
        ),
        (
            lambda: heads(Q, Q[..., :2], Q),
            ShapeError,
            "MultiheadAttention: key has shape (3, 2, 2), expected (l, n, ",
        ),
        (
            lambda: heads(Q, Q, Q[:2]),
            ShapeError,
            "MultiheadAttention: query (3, 2, 4), key (3, 2, 4) and value (2, 2, 4) are incompatible; expected as many",
        ),
        (
            lambda: heads(Q, Q[:, :1], Q[:, :1]),
            ShapeError,
            "MultiheadAttention: query (3, 2, 4), key (3, 1, 4) and value (3, 1, 4) are incompatible; expected as many",
        ),
        (lambda: heads(Q, Q, Q, is_causal=1), TypeError, "MultiheadAttention: is_causal must be True or False, got 1"),
        (
            lambda: heads(Q, Q, Q, np.ones((3, 2), bool)),
            ShapeError,
            "MultiheadAttention: key_padding_mask has shape (3, 2), expected (2, 3)",
        ),
        (
            lambda: heads(Q, Q, Q, None, True, np.ones((2, 3), bool)),
            ShapeError,
            "MultiheadAttention: attn_mask has shape (2, 3), expected (3, 3) or (4, 3, 3)",
        ),
        (
            lambda: heads(Q, Q, Q, None, True, np.ones((3, 3), int)),
            DTypeError,
            "MultiheadAttention: attn_mask must have a boolean or floating dtype, got int64",
        ),
        (
            lambda: nn.TransformerEncoderLayer(4, 3),
            ArgumentError,
            "TransformerEncoderLayer: nhead must divide d_model, got 3",
        ),
        (lambda: nn.TransformerEncoder(3, 2), ArgumentError, "TransformerEncoder: encoder_layer must be a module, got 3"),
        (
            lambda: nn.TransformerDecoder(heads, -1),
            ArgumentError,
            "TransformerDecoder: num_layers must be a non-negative integer",
        ),
        (lambda: nn.TransformerDecoder(heads, 1, 2), ArgumentError, "TransformerDecoder: norm must be a module, got 2"),
    ],
)
def test_errors(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        call()
