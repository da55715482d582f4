"""DataLoader: batches of arrays for each epoch."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tensorgrad.core.backend import DEFAULT_FLOAT, Array, as_device, device_of, is_array, is_floating, is_number, like, on
from tensorgrad.core.form import ANYTHING, COUNT, INTEGER_ARRAY, Each, Maybe, generator_problems, problems
from tensorgrad.core.memory import new
from tensorgrad.core.ranks import Part, ranks
from tensorgrad.core.tensor import Tensor
from tensorgrad.data.transfer import to_device
from tensorgrad.errors import ArgumentError, DataError, DeviceError, DTypeError, ShapeError

_seeds = np.random.default_rng()

STATE = {"samples": COUNT, "batch_size": COUNT, "generator": Each(ANYTHING), "position": COUNT, "order": Maybe(INTEGER_ARRAY)}


def seed(value: int | None) -> None:
    """Seed the generator that seeds loaders without a generator of their own."""
    global _seeds
    _seeds = np.random.default_rng(value)


def seeds() -> np.random.Generator:
    """The generator that seeds loaders without a generator of their own."""
    return _seeds


class DataLoader:
    """Samples in batches: each `for` loop over it is one epoch of tuples of arrays, such as (x, y).

    arrays       arrays or Tensors of the same length, with samples along the first axis: X and y, or X, y and weights.
                 Lists, data frames and the like are converted to arrays, real numbers to float32. SciPy's sparse matrices stay
                 sparse; their batches are dense unless `keep_sparse`
    batch_size   samples per batch, at least 1; None for all. The last batch may be smaller
    shuffle      shuffle the samples in each epoch
    drop_last    drop a smaller last batch
    rng          a NumPy generator for shuffling, or a seed; by default the seed derives from `manual_seed`
    keep_sparse  yield sparse batches as sparse matrices (CSR), for a model whose first layer accepts them (nn.Linear); only in
                 main memory
    device       the device of the batches, by default that of the arrays. Arrays in main memory are copied to a GPU through
                 pinned memory, one batch ahead of the computation

    With several ranks (`tensorgrad.distributed`) each gets its part of every batch, in the order of the first rank's generator.

    `len(loader)` is the number of batches. Unshuffled batches are views of the arrays, except of sparse ones.

    Raises ShapeError for arrays of different lengths, DTypeError for data that are not numeric, DataError if there are no
    samples, or no batches because of `drop_last`; ArgumentError for other invalid arguments.
    """

    def __init__(
        self,
        *arrays: Any,
        batch_size: int | None = 32,
        shuffle: bool = False,
        drop_last: bool = False,
        rng: np.random.Generator | int | None = None,
        device: str | None = None,
        keep_sparse: bool = False,
    ) -> None:
        if not arrays:
            raise ArgumentError("DataLoader: expected at least one array, got none")
        size = _batch_size(batch_size)
        for name, value in (("shuffle", shuffle), ("drop_last", drop_last), ("keep_sparse", keep_sparse)):
            if not isinstance(value, (bool, np.bool_)):
                raise ArgumentError(f"DataLoader: {name} must be True or False, got {value!r}")
        self.arrays = tuple(_samples(i, a, bool(keep_sparse)) for i, a in enumerate(arrays))
        lengths: list[int] = [a.shape[0] for a in self.arrays]
        if len(set(lengths)) > 1:
            raise ShapeError(
                f"DataLoader: arrays have {', '.join(map(str, lengths))} samples, expected the same number in each"
            )
        self.samples = lengths[0]
        if not self.samples:
            raise DataError("DataLoader: the arrays have no samples")
        devices = {device_of(a) for a in self.arrays}
        if len(devices) > 1:
            raise DeviceError(f"DataLoader: arrays on {' and on '.join(sorted(devices))}; move some of them")
        self.device = device_of(self.arrays[0]) if device is None else as_device(device)
        self.batch_size = min(size or self.samples, self.samples)
        if drop_last and size is not None and size > self.samples:
            raise DataError(f"DataLoader: drop_last leaves no batch: {self.samples} samples, batches of {size}")
        if keep_sparse and self.device != "cpu":
            raise DeviceError(f"DataLoader: keep_sparse needs device 'cpu', but device is {self.device}")
        self.shuffle, self.drop_last = bool(shuffle), bool(drop_last)
        self.rng = _generator(rng)
        self.epoch: Epoch | None = None  # of the most recent loop
        self._resumed = False

    def __repr__(self) -> str:
        arrays = ", ".join(f"{tuple(a.shape)} {a.dtype}" for a in self.arrays)
        options = [f"{name}=True" for name in ("shuffle", "drop_last") if getattr(self, name)]
        options += [f"device={self.device!r}"] if self.device != "cpu" else []
        batches = f"{len(self)} batch{'es' * (len(self) != 1)} of {self.batch_size}"
        return f"DataLoader({', '.join([arrays, *options])}; {self.samples:,} samples, {batches})"

    def __len__(self) -> int:
        full, rest = divmod(self.samples, self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[tuple[Array, ...]]:
        epoch, self._resumed = self.epoch if self._resumed else None, False
        if epoch is None:
            epoch = Epoch(self.next_order())
        self.epoch = epoch
        batches = self._batches(epoch)
        outer_part = part = ranks.part
        if self.device != device_of(self.arrays[0]):
            batches = to_device(batches, self.device)
        try:
            for batch in batches:
                epoch.position += 1
                if ranks.group is not None:
                    ranks.part = part = self.part(epoch.position - 1)
                yield batch
        finally:
            if ranks.part is part:
                ranks.part = outer_part
            if self.epoch is epoch:
                self.epoch = None

    def next_order(self) -> Array | None:
        """The order of the samples for the next epoch; None if not shuffled."""
        if not self.shuffle:
            return None
        if ranks.group is not None:
            self.rng.bit_generator.state = ranks.broadcast(self.rng.bit_generator.state)
        return self.rng.permutation(self.samples)

    def part(self, position: int) -> Part:
        """This rank's part of a batch."""
        start = position * self.batch_size
        return Part.of(min(self.batch_size, self.samples - start))

    def _batches(self, epoch: Epoch) -> Iterator[tuple[Array, ...]]:
        """The (remaining) batches of an epoch, on the device of the arrays."""
        size, order, i = self.batch_size, epoch.order, epoch.position
        while i < len(self):
            part = self.part(i)
            start, stop = i * size + part.start, i * size + part.stop
            if order is None:
                yield tuple([a[start:stop] for a in self.arrays])
            else:
                yield tuple([rows_of(a, order[start:stop]) for a in self.arrays])
            i = max(i + 1, epoch.position)  # whoever iterates may skip batches

    def state_dict(self) -> dict[str, Any]:
        """Return the position: the state of the generator and, during an epoch, its order and the number of batches yielded."""
        epoch = self.epoch or Epoch(None)
        return {
            "samples": self.samples,
            "batch_size": self.batch_size,
            "generator": self.rng.bit_generator.state,
            "position": epoch.position,
            "order": None if epoch.order is None else epoch.order.copy(),
        }

    def misfits(self, values: Any) -> list[str]:
        """The reasons why a state_dict cannot be loaded, in words."""
        if reasons := problems(values, STATE):
            return reasons
        order, position = values["order"], values["position"]
        for name, expected in (("samples", self.samples), ("batch_size", self.batch_size)):
            if values[name] != expected:
                reasons.append(f"{name} is {values[name]}, expected {expected}")
        if position > len(self):
            reasons.append(f"position is {position}, expected 0 to {len(self)}")
        elif (order is not None) != (self.shuffle and position > 0):
            reasons.append(
                f"shuffle was {order is not None}, expected {self.shuffle}"
                if position
                else "there is an order although position is 0"
            )
        elif order is not None and not np.array_equal(np.sort(order), np.arange(self.samples)):
            reasons.append(f"the order is not a permutation of {self.samples} samples")
        return reasons + generator_problems(self.rng, values["generator"], "generator")

    def load_state_dict(self, values: Mapping[str, Any]) -> None:
        """Restore the position from a dict of `state_dict`: the next loop starts with the next batch.

        Raises DataError, before anything is changed, for other samples or batches, another kind of generator, and anything that
        is not such a state.
        """
        if found := self.misfits(values):
            raise DataError(f"DataLoader.load_state_dict: {'; '.join(found)}")
        self.rng.bit_generator.state = values["generator"]
        order, position = values["order"], values["position"]
        self.epoch, self._resumed = (Epoch(order, position), True) if position else (None, False)


@dataclass
class Epoch:
    """One loop over the samples: the order, if shuffled, and the number of batches yielded."""

    order: Array | None
    position: int = 0


class Sparse:
    """A SciPy sparse matrix whose rows are read as dense arrays, or as sparse ones if kept."""

    def __init__(self, matrix: Any, keep: bool = False) -> None:
        self.matrix, self.keep = matrix.tocsr(), keep
        self.shape, self.dtype, self.ndim = self.matrix.shape, self.matrix.dtype, self.matrix.ndim

    def __getitem__(self, rows: Any) -> Array:
        selected = self.matrix[rows]
        return selected if self.keep else selected.toarray()


def _batch_size(value: Any) -> int | None:
    """A positive number of samples, or None. Raises ArgumentError for anything else."""
    if value is None:
        return None
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        size = operator.index(value)
    except TypeError:
        raise ArgumentError(f"DataLoader: batch_size must be an integer or None, got {value!r}") from None
    if size < 1:
        raise ArgumentError(f"DataLoader: batch_size must be at least 1, got {size}")
    return size


def _generator(value: Any) -> np.random.Generator:
    """The generator for shuffling, created from a seed if necessary; for None from the global seed."""
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        return np.random.default_rng(int(_seeds.integers(2**63)) if value is None else value)
    except (TypeError, ValueError):
        raise ArgumentError(f"DataLoader: rng must be a NumPy generator, a non-negative seed, or None, got {value!r}") from None


def rows_of(array: Array, indices: Array) -> Array:
    """The rows of an array with the given valid indices, on its device."""
    if isinstance(array, np.ndarray):
        out = new((len(indices), *array.shape[1:]), array.dtype)  # fresh memory would take half of the time
        return array.take(indices, axis=0, out=out, mode="clip")  # "raise" would make a copy
    if isinstance(array, Sparse):
        return array[indices]
    with on(array):
        return array.take(like(indices, array), axis=0)


def _samples(i: int, value: Any, keep_sparse: bool) -> Array:
    """An argument as an array with an axis of samples."""
    if isinstance(value, Tensor):
        array: Array = value._data
    elif is_array(value):
        array = value
    elif hasattr(value, "tocsr"):
        array = Sparse(value, keep_sparse)
    else:
        try:
            array = np.asarray(value)
        except ValueError as error:  # ragged list
            raise DTypeError(f"DataLoader: array {i} cannot be converted to an array: {error}") from None
        array = array.astype(DEFAULT_FLOAT) if is_floating(array.dtype) else array
    if not is_number(array.dtype):
        raise DTypeError(f"DataLoader: array {i} has dtype {array.dtype}, expected numbers or booleans")
    if not array.ndim:
        raise ShapeError(f"DataLoader: array {i} is a single number, expected a first axis of samples")
    return array
