"""DataLoader: every sample once, in the order of its own generator, from any place on."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st

from tensorgrad import Tensor, data
from tensorgrad.core.memory import POOLED
from tensorgrad.errors import ArgumentError, DataError, DeviceError, DTypeError, ShapeError

counts = st.integers(1, 40)
options = {
    "n": counts,
    "size": st.none() | counts,
    "shuffle": st.booleans(),
    "drop_last": st.booleans(),
    "seed": st.integers(0, 99),
}


def loader_of(n: int, size: int | None, shuffle: bool, drop_last: bool, seed: int) -> data.DataLoader:
    x = np.arange(n)
    return data.DataLoader(
        x[:, None] * 10, x, batch_size=size, shuffle=shuffle, drop_last=drop_last and (size or 0) <= n, rng=seed
    )


def taken(batches: list[tuple[np.ndarray, ...]]) -> list[list[int]]:
    return [y.tolist() for _, y in batches]


@given(**options)
def test_epochs(n: int, size: int | None, shuffle: bool, drop_last: bool, seed: int) -> None:
    """Against slices of the permutations of a generator of the same seed."""
    loader = loader_of(n, size, shuffle, drop_last, seed)
    rng = np.random.default_rng(seed)
    step = size or n
    for _ in range(3):
        order = rng.permutation(n) if shuffle else np.arange(n)
        expected = [order[i : i + step].tolist() for i in range(0, n, step)]
        if loader.drop_last and n % step:
            expected = expected[:-1]
        batches = list(loader)
        assert taken(batches) == expected
        assert len(loader) == len(expected)
        for x, y in batches:
            np.testing.assert_array_equal(x[:, 0], y * 10)


@given(**options, stop=st.integers(0, 100))
def test_goes_on_from_any_place(n: int, size: int | None, shuffle: bool, drop_last: bool, seed: int, stop: int) -> None:
    first, second = (loader_of(n, size, shuffle, drop_last, s) for s in (seed, seed + 1))
    stop %= 2 * len(first) + 1  # batches before the break, in the first epoch or the second
    states, batches = [first.state_dict()], []
    for _ in range(3):
        for batch in first:
            states.append(first.state_dict())
            batches.append(batch)
    order = states[stop]["order"]
    second.load_state_dict(json.loads(json.dumps(states[stop], default=np.ndarray.tolist)) | {"order": order})
    rest = [batch for _ in range(3) for batch in second]
    assert taken(rest)[: len(batches) - stop] == taken(batches)[stop:]


@given(**options, dense=st.integers(0, 3))
def test_sparse_matrices(n: int, size: int | None, shuffle: bool, drop_last: bool, seed: int, dense: int) -> None:
    """The batches are those of the dense array; the same place is gone on from."""
    x = (np.arange(3 * n).reshape(n, 3) % 5 * dense - 1).astype(np.float32)
    given_options = {"batch_size": size, "shuffle": shuffle, "drop_last": drop_last and (size or 0) <= n, "rng": seed}
    one, other = (data.DataLoader(a, np.arange(n), **given_options) for a in (x, scipy.sparse.coo_array(x)))
    for _ in range(2):
        assert one.state_dict().keys() == other.state_dict().keys()
        for expected, found in zip(one, other, strict=True):
            assert type(found[0]) is np.ndarray
            assert found[0].dtype == np.float32
            np.testing.assert_array_equal(found[0], expected[0])
            np.testing.assert_array_equal(found[1], expected[1])


def test_batches_that_are_kept_keep_what_is_in_them() -> None:
    """Batches as large as those whose memory is used again; one of them is dropped, the others are not."""
    x = np.random.default_rng(0).normal(size=(300, 2000))
    assert 100 * x[0].nbytes > POOLED
    loader = data.DataLoader(x, np.arange(300), batch_size=100, shuffle=True, rng=0)
    kept = []
    for i, (xb, numbers) in enumerate(b for _ in range(3) for b in loader):
        if i != 1:
            kept.append((xb, numbers, numbers.tolist()))
    for xb, numbers, expected in kept:
        np.testing.assert_array_equal(numbers, expected)
        np.testing.assert_array_equal(xb, x[expected])


def test_a_loop_that_was_left_is_over() -> None:
    loader = data.DataLoader(np.arange(10), batch_size=2, shuffle=True, rng=3)
    left = iter(loader)
    next(left)
    assert loader.state_dict()["position"] == 1
    whole = iter(loader)
    next(whole)
    next(whole)
    left.close()  # late, as the garbage collector does it: the other one is under way
    assert loader.state_dict()["position"] == 2
    whole.close()
    assert loader.state_dict()["position"] == 0
    assert sorted(np.concatenate([x for (x,) in loader])) == list(range(10))


def test_arrays_of_every_kind() -> None:
    x, y = np.arange(6, dtype=np.uint8).reshape(3, 2), Tensor([1.0, 2.0, 3.0])
    a, b, c, d = next(iter(data.DataLoader(x, y, [0.5, 1.5, 2.5], [[1], [2], [3]], batch_size=None)))
    assert [v.dtype for v in (a, b, c, d)] == [np.uint8, np.float32, np.float32, np.int64]
    assert np.shares_memory(a, x)  # nothing is copied where nothing is shuffled
    assert d.shape == (3, 1)
    shared = np.random.default_rng(5)
    assert data.DataLoader(x, rng=shared).rng is shared


X = np.ones((4, 2))


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: data.DataLoader(), TypeError, "DataLoader: expected at least one array, got none"),
        (
            lambda: data.DataLoader(X, X[:3]),
            ShapeError,
            "DataLoader: arrays have 4, 3 samples, expected the same number in each",
        ),
        (lambda: data.DataLoader(X[:0]), DataError, "DataLoader: the arrays have no samples"),
        (lambda: data.DataLoader(X, batch_size=0), ValueError, "DataLoader: batch_size must be at least 1, got 0"),
        (lambda: data.DataLoader(X, batch_size=2.0), TypeError, r"batch_size must be an integer or None, got 2\.0"),
        (lambda: data.DataLoader(X, batch_size=True), TypeError, "batch_size must be an integer or None, got True"),
        (lambda: data.DataLoader(X, device="tpu"), DeviceError, "device: expected 'cpu', 'cuda' or 'cuda:1', got 'tpu'"),
        (
            lambda: data.DataLoader(X, batch_size=5, drop_last=True),
            DataError,
            "DataLoader: drop_last leaves no batch: 4 samples, batches of 5",
        ),
        (lambda: data.DataLoader(["a", "b"]), DTypeError, "DataLoader: array 0 has dtype <U1, expected numbers"),
        (lambda: data.DataLoader(X, np.float64(3)), ShapeError, "DataLoader: array 1 is a single number"),
    ],
)
def test_mistakes(make, kind, message) -> None:
    with pytest.raises(kind, match=message):
        make()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"samples": 5}, "samples is 5, expected 4"),
        ({"batch_size": 3}, "batch_size is 3, expected 2"),
        ({"order": None}, "shuffle was False, expected True"),
        ({"position": 0}, "there is an order although position is 0"),
        ({"order": np.array([0, 1, 1, 2])}, "the order is not a permutation of 4 samples"),
        ({"position": 3}, "position is 3, expected 0 to 2"),
        ({"generator": np.random.default_rng(0).bit_generator.state | {"bit_generator": "MT19937"}}, "generator: "),
    ],
)
def test_states_that_do_not_fit(change, message) -> None:
    loader = data.DataLoader(X, batch_size=2, shuffle=True, rng=1)
    batches = iter(loader)
    next(batches)
    state = loader.state_dict()
    batches.close()
    before = loader.state_dict()
    with pytest.raises(DataError, match=f"DataLoader.load_state_dict: {message}"):
        loader.load_state_dict(state | change)
    assert loader.state_dict() == before


WRONG: dict[str, list[Any]] = {
    "batch_size": [0, -1, 2.5, 2.0, "a", True, np.bool_(True), float("nan"), [], (2,), np.int64(0), np.ones(2), np.array(2.0)],
    "shuffle": ["no", None, 1, 0.0, []],
    "drop_last": ["no", None, 1, 0.0, []],
    "rng": ["seed", -1, 1.5, True, {}, np.random],
}


@pytest.mark.parametrize("name", WRONG)
def test_arguments_wrong_in_turn(name: str) -> None:
    for value in WRONG[name]:
        with pytest.raises(ArgumentError, match=rf"^DataLoader: {name} must be"):
            print(data.DataLoader(np.ones((4, 2)), **{name: value}), "takes", repr(value))


def test_what_is_no_array_of_samples() -> None:
    for value in (
        "text",
        ["a"],
        None,
        [[1.0], [1.0, 2.0]],
        {1, 2},
        {"a": 1},
        iter([1]),
        object(),
        np.array([1j]),
        [None],
        3,
        np.array(1),
    ):
        with pytest.raises((DTypeError, ShapeError), match=r"^DataLoader: array 1 "):
            data.DataLoader(np.ones(2), value)
    loader = data.DataLoader(np.ones((4, 2)), batch_size=np.int64(3), shuffle=np.bool_(False), rng=np.int64(0))
    assert len(loader) == 2
    assert type(loader.batch_size) is int
    assert len(data.DataLoader(np.ones((4, 2)), batch_size=np.array(3))) == 2
