"""What users do, and what has given wrong numbers when they did it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import special

import tensorgrad
from tensorgrad import Tensor, data, nn, ops, optim, train
from tensorgrad.errors import ArgumentError, DTypeError, GraphError, ShapeError
from tensorgrad.nn import functional as F


def leaf(*numbers: float, dtype: Any = np.float64) -> Tensor:
    return Tensor(np.array(numbers, dtype), requires_grad=True)


def gradients(f: Any, *xs: Tensor) -> list[list[float]]:
    return [g.data.tolist() for g in tensorgrad.grad(f(*xs).sum(), xs)]


# Gradients belong to those that they were given to


def test_two_gradients_share_no_memory() -> None:
    """Of a value that passes its gradient on unchanged, and of what was asked for besides."""
    for same in (lambda x: x + 0, lambda x: x - 0, lambda x: x + np.zeros(3), lambda x: ops.reshape(x, (3,))):
        x = leaf(1, 2, 3)
        h = same(x)
        h.retain_grad()
        loss = (h * h).sum()
        loss.backward(retain_graph=True)
        loss.backward()
        np.testing.assert_array_equal(x.grad.data, [4, 8, 12])
        np.testing.assert_array_equal(h.grad.data, [4, 8, 12])
        x.grad.data[...] = 0
        assert h.grad.data.any()


def test_hooks_keep_what_they_were_given() -> None:
    x, kept, seen = leaf(1, 2, 3), Tensor(np.ones(3)), []
    x.register_hook(lambda g: kept)
    for i in range(1, 4):
        (x * 2).sum().backward()
        np.testing.assert_array_equal(x.grad.data, np.full(3, i))
    np.testing.assert_array_equal(kept.data, np.ones(3))
    y = leaf(1, 2)
    y.register_hook(seen.append)
    for i in range(3):
        (y * float(i + 1)).sum().backward()
    np.testing.assert_array_equal([g.data[0] for g in seen], [1, 2, 3])


@pytest.mark.parametrize(
    "change", ["y *= y", "y /= y + 1", "y **= y", "y *= y[0]", "y *= y[::-1]", "y *= y.detach()", "y -= y"]
)
def test_in_place_with_itself(change: str) -> None:
    """As the same without `=` before the operator."""
    sign, _, other = change.removeprefix("y ").partition("= ")
    results = []
    for text in (change, f"y = y {sign} ({other})"):
        w = leaf(1.5, 2, 3)
        space: dict[str, Any] = {"y": w * 2}
        exec(text, space)
        results.append((space["y"].data.copy(), tensorgrad.grad(space["y"].sum(), w)[0].data))
    for found, expected in zip(*results, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-14)


def test_floats_with_a_gradient_are_not_put_into_integers() -> None:
    w, y = leaf(1.5, 2.5), Tensor(np.zeros(2, int))
    with pytest.raises(
        DTypeError, match="a float64 Tensor that requires a gradient cannot be stored in a Tensor of dtype int64"
    ):
        y[0] = w[0] * 1.5


def test_checkpoints_of_functions_made_in_a_loop() -> None:
    """Each calls the last layer in backward(): said, where the gradients of the others would be 0."""
    layers = [nn.Linear(3, 3) for _ in range(3)]
    h = Tensor(np.ones((4, 3), np.float32), requires_grad=True)
    for layer in layers:
        h = tensorgrad.checkpoint(lambda h: layer(h).tanh(), h)  # noqa: B023
    with pytest.raises(GraphError, match="computed something different"):
        h.sum().backward()


# Numbers on the way


def test_powers_of_arrays() -> None:
    """Their second derivative at 0, and exponents of dtypes that have no -1."""
    for exponent in (2, 2.0, np.array([2.0]), np.array(2), np.array([2], np.uint8)):
        found = tensorgrad.hessian(lambda x, b=exponent: (x**b).sum(), leaf(0.0))
        np.testing.assert_array_equal(found.data, [[2.0]])
    for dtype in ("uint8", "uint16", "uint32", "int8", "int64", "bool"):
        b = np.array([0, 1], dtype)
        assert gradients(lambda x, b=b: x**b, leaf(20, 3)) == [[0, 1]]


def test_quotients_whose_parts_underflow() -> None:
    ga, gb = gradients(lambda a, b: a / b * 1e-200, leaf(1e250), leaf(1e150))
    assert gb == pytest.approx([-1e-250], rel=1e-12, abs=0)
    assert ga == [0.0] or ga == pytest.approx([1e-350])


def test_products_of_neighbours() -> None:
    x = leaf(1e200, 1e-200, 1e200, 1e-200)
    assert x.prod().item() == pytest.approx(1)
    assert gradients(ops.prod, x)[0] == pytest.approx([1e-200, 1e200, 1e-200, 1e200], rel=1e-12, abs=0)


@pytest.mark.parametrize("axis", [0, (0, 1)])
def test_sums_over_many_rows(axis: Any) -> None:
    """NumPy adds float32 one row after the other: of 200,000 rows one percent is lost."""
    x = np.tile(np.array([[1000.0, 0.1]], np.float32), (200_000, 1))
    x = x.reshape(400, 500, 2) if axis != 0 else x
    exact = x.mean(axis=axis, dtype=np.float64)
    np.testing.assert_allclose(ops.mean(Tensor(x), axis).data, exact, rtol=1e-6)
    # columns of matrices are products with ones: of 8,192 rows at a time, one after the other
    np.testing.assert_allclose(ops.sum(Tensor(x), axis).data, exact * 200_000, rtol=1e-4)
    bias = Tensor(np.zeros(2, np.float32), requires_grad=True)
    (Tensor(x) * 0 + bias).backward(x)
    np.testing.assert_allclose(bias.grad.data, exact * 200_000, rtol=1e-6)


def test_logarithms_without_a_graph() -> None:
    """Of what is not recorded they are evaluated as in training, so that a validation loss is no infinity."""
    z = np.array([[800.0, 0.0], [-800.0, 3.0]])
    with tensorgrad.no_grad():
        for x in (Tensor(z), Tensor(z, True)):
            p = x.sigmoid()
            np.testing.assert_allclose(p.log().data, special.log_expit(z))
            np.testing.assert_allclose((1 - p).log().data, special.log_expit(-z))
            np.testing.assert_allclose(np.log1p(-p).data, special.log_expit(-z))
            np.testing.assert_allclose(x.softmax().log().data, special.log_softmax(z, -1))
            assert not p.log().requires_grad
            p[...] = 0.5  # written to since: an ordinary logarithm
            np.testing.assert_allclose(p.log().data, np.log(0.5))


def test_a_confident_model_is_compiled_and_validated() -> None:
    z, t = Tensor(np.array([[18.0], [18.0]], np.float32)), np.array([[1.0], [0.0]], np.float32)

    def loss(z: Tensor) -> Tensor:
        p = z.sigmoid()
        return -(t * p.log() + (1 - t) * (1 - p).log()).mean()

    step = tensorgrad.compile(loss)
    assert [step(z).item() for _ in range(3)] == pytest.approx([9.0] * 3)
    assert loss(z).item() == pytest.approx(9.0)


def test_columns_of_tables_keep_their_dtype() -> None:
    pandas = pytest.importorskip("pandas", reason="needs pandas: pip install pandas")
    x = leaf(1, 1)
    np.testing.assert_array_equal((x * pandas.Series([0.1, 0.2])).data, [0.1, 0.2])
    labels, z = np.array([0, 2, 1]), Tensor(np.random.default_rng(0).normal(size=(3, 3)), True)
    assert F.cross_entropy(z, pandas.Series(labels)).item() == F.cross_entropy(z, labels).item()
    assert (Tensor(np.array([1])) * pandas.Series([16777217])).item() == 16777217


def test_lists_are_numbers_beside_a_tensor() -> None:
    assert ((leaf(0.1) - [0.1]).item(), (leaf(0.1) == [0.1]).item()) == (0.0, True)
    assert not (Tensor(np.array([2**24])) == [2**24 + 1]).item()
    assert (Tensor([1.0]) * [0.1]).dtype == np.float32


def test_masked_arrays_are_refused() -> None:
    with pytest.raises(DTypeError, match="masked arrays are not supported"):
        leaf(1, 2) * np.ma.array([1.0, 2], mask=[0, 1])


def test_numbers_beyond_every_integer() -> None:
    assert (Tensor([1.0]) * 2**70).item() == pytest.approx(2.0**70)


def test_einsum_of_several_dtypes() -> None:
    a, b = Tensor(np.ones((3, 4)), True), np.array([[1, 1], [1, 1], [0, 1], [1, 0]], bool)
    y = ops.einsum("ij,jk->", a, b)
    assert y.item() == 18
    np.testing.assert_array_equal(tensorgrad.grad(y, a)[0].data, np.tile([2.0, 2, 1, 1], (3, 1)))
    assert ops.einsum("ij,jk->", np.ones((3, 4)), np.full((4, 2), 200, np.uint8)) == 4800


def test_scaling_of_wide_ranges() -> None:
    for dtype, top in (("float16", 60_000), ("float32", 3e38), ("float64", 1.5e308)):
        found = data.min_max(np.array([[-top, top, 0]], dtype))
        np.testing.assert_allclose(found, [[0, 1, 0.5]])
        assert found.dtype == dtype


def test_cholesky_of_narrow_dtypes() -> None:
    assert ops.cholesky(np.eye(2, dtype=np.uint8) * 200)[0, 0] == pytest.approx(np.sqrt(200))
    assert ops.cholesky(np.eye(2, dtype=np.float32) * 3e38)[0, 0] == pytest.approx(np.sqrt(3e38))


# Arguments


def test_concatenate_of_one_array_joins_its_rows() -> None:
    x = np.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(ops.concatenate(Tensor(x)).data, np.concatenate(x))


def test_writes_into_nothing() -> None:
    q = Tensor(np.arange(6.0).reshape(2, 3))
    q[np.zeros(2, bool)] += 1.0
    Tensor(np.zeros((0, 3)))[...] = 1.0
    np.testing.assert_array_equal(q.data, np.arange(6.0).reshape(2, 3))


def test_what_has_no_axes_is_no_matrix() -> None:
    for product in (lambda: leaf(1, 2) @ 0.5, lambda: 0.5 @ leaf(1, 2), lambda: leaf(1, 2) @ Tensor(2.0)):
        with pytest.raises(ShapeError, match="matmul"):
            product()


def test_gradients_set_by_hand_are_floating() -> None:
    a = leaf(1, 2)
    with pytest.raises(DTypeError, match=r"\.grad: expected a Tensor with a floating dtype, got uint8"):
        a.grad = Tensor(np.array([30, 40], np.uint8))


def test_numbers_of_threads_have_an_end() -> None:
    with pytest.raises(ArgumentError, match="of at most 1024"):
        tensorgrad.set_num_threads(10**9)


def test_an_optimiser_on_memory_of_others() -> None:
    a, b = nn.Linear(4, 1), nn.Linear(4, 1)
    a.weight.data = b.weight.data
    optim.SGD(a.parameters(), 0.1)


def test_a_loader_that_fills_its_arrays_again() -> None:
    """Metrics see every batch as it was."""
    rng = np.random.default_rng(0)
    xs, ys = rng.normal(size=(12, 4)).astype(np.float32), np.repeat([0, 1, 2], 4)

    class Again:
        x, y = np.empty((4, 4), np.float32), np.empty(4, int)

        def __len__(self) -> int:
            return 3

        def __iter__(self) -> Any:
            for i in range(3):
                self.x[:], self.y[:] = xs[4 * i : 4 * i + 4], ys[4 * i : 4 * i + 4]
                yield self.x, self.y

    model = nn.Linear(4, 3)
    found = train.evaluate(model, F.cross_entropy, Again(), [train.metrics.accuracy])
    assert found["accuracy"] == (model(xs).data.argmax(1) == ys).mean()


def test_numbers_that_numpy_made_of_an_outside_array() -> None:
    """A plan does not keep what was computed of an array that it reads anew."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=6)
    for number in (lambda a: int(a.sum()), lambda a: len(np.unique(a)), np.argmax, lambda a: np.bincount(a.astype(int)).max()):
        for outside in (np.array([1.0, 0, 1, 2, 0, 2]), np.array([1, 0, 1, 2, 0, 2])):
            step = tensorgrad.compile(lambda x, a=outside, f=number: (x * a).sum() * float(f(a) + 1))
            for _ in range(3):
                step(Tensor(x))
            outside[...] = [3, 3, 3, 0, 0, 1]
            assert step(Tensor(x)).item() == pytest.approx((x * outside).sum() * float(number(outside) + 1))
