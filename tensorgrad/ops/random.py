"""Random draws as operations, which draw again when a program is run again."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from tensorgrad.core.arguments import number, seed_of
from tensorgrad.core.backend import Array, Xp, copy, device_of, move, on, put
from tensorgrad.core.batched import Batched
from tensorgrad.core.op import Op, Sample
from tensorgrad.core.operand import Operand, T
from tensorgrad.core.ranks import ranks
from tensorgrad.core.signature import Shape
from tensorgrad.core.state import state
from tensorgrad.errors import DeviceError, MissingDependencyError

_default = np.random.default_rng()


def seed(value: int | None) -> None:
    """Seed the generator of dropout masks, `rand` and `randn`, for reproducible results."""
    global _default
    value = seed_of("seed", value)
    if state.trace is not None:
        state.trace.forbid("a seed for random numbers")
    states = on_gpus(_default)
    _default = np.random.default_rng(value)
    for array in states.values():  # in place, because captured steps draw from these arrays
        with on(array):
            array[...] = new_state(_default)
    if states:
        _on_gpus[id(_default)] = _default, states


def default() -> np.random.Generator:
    """The default generator."""
    return _default


# On a GPU numbers are drawn there (Philox, Salmon et al. 2011), from a key and a counter in its memory. The key is the first
# number that a generator draws for a GPU.
_on_gpus: dict[int, tuple[np.random.Generator, dict[str, Array]]] = {}  # by id of the generator, which is kept alive


def on_gpus(rng: np.random.Generator) -> dict[str, Array]:
    """A generator's states by device."""
    return _on_gpus.get(id(rng), (rng, {}))[1]


def gpu_state(rng: np.random.Generator, like: Array) -> Array:
    """The state of a generator on the GPU of `like`, for kernels.cuda.launch.keep_mask."""
    states = on_gpus(rng)
    device = device_of(like)
    if device not in states:
        states[device] = new_state(rng)
        _on_gpus[id(rng)] = rng, states
    return states[device]


def new_state(rng: np.random.Generator) -> Array:
    from tensorgrad.kernels.cuda.launch import random_state

    return random_state(int(rng.integers(2**63)))


def state_of(rng: np.random.Generator) -> Any:
    """The complete state of a generator: "generator", NumPy's, and "gpus", an array for each GPU that it has drawn on."""
    return {"generator": rng.bit_generator.state, "gpus": {device: copy(array) for device, array in on_gpus(rng).items()}}


def set_state(rng: np.random.Generator, state: Any) -> None:
    """Restore a state from `state_of`, also in another process; states for missing GPUs are ignored."""
    rng.bit_generator.state = state["generator"]
    for device, array in state["gpus"].items():
        with contextlib.suppress(DeviceError, MissingDependencyError):
            put(gpu_state(rng, move(array, device)), array)
    for device, array in on_gpus(rng).items():
        if device not in state["gpus"]:  # nothing had been drawn there; a captured step may hold the array
            with on(array):
                array[...] = new_state(rng)


@contextlib.contextmanager
def preserve_generators(generators: Sequence[np.random.Generator]) -> Iterator[None]:
    """Context manager that restores the states of generators, so that draws are repeated."""
    different = list({id(rng): rng for rng in generators}.values())
    states = [state_of(rng) for rng in different]
    try:
        yield
    finally:
        for rng, before in zip(different, states, strict=True):
            set_state(rng, before)


def uniform_of(rng: np.random.Generator, shape: Shape, dtype: Any) -> Array:
    """Numbers in 0 .. 1, 1 excluded. For this rank's part of a batch they are its rows of the draws for the whole batch, so
    that the generator advances as in a single process.
    """
    part = ranks.part
    if part is None or ranks.group is None or shape[:1] != (part.stop - part.start,):
        return np.asarray(rng.random(shape, dtype))
    row = math.prod(shape[1:])
    skip(rng, part.start * row, dtype)
    numbers = np.asarray(rng.random(shape, dtype))
    skip(rng, (part.total - part.stop) * row, dtype)
    return numbers


def skip(rng: np.random.Generator, count: int, dtype: Any) -> None:
    """Skip so many numbers. PCG64 draws 64 bits at a time, of which a float32 uses half, and can jump ahead."""
    bits = rng.bit_generator
    if not isinstance(bits, np.random.PCG64):
        rng.random(count, dtype)
        return
    if np.dtype(dtype).itemsize == 8:
        buffered = bits.state["has_uint32"], bits.state["uinteger"]
        bits.advance(count)
        bits.state = {**bits.state, "has_uint32": buffered[0], "uinteger": buffered[1]}  # float64 leaves a buffered half
        return
    if count and bits.state["has_uint32"]:
        rng.random(1, dtype)
        count -= 1
    if count > 1:  # a jump discards the buffered half
        bits.advance(count // 2)
    if count % 2:
        rng.random(1, dtype)


class Draw(Op):
    """A random op: on a GPU it draws into an existing array, so that a captured step draws new numbers."""

    draws = True

    def apply(self, x: Any, **attrs: Any) -> Any:
        if state.draws is None or type(x) is Batched:  # vmap calls it again with all samples
            return super().apply(x, **attrs)
        return state.draws(lambda: Op.apply(self, x, **attrs))

    def bound(self, out: Array, **attrs: Any) -> Callable[[], None]:
        """A function without arguments that draws into an array on a GPU."""
        raise NotImplementedError


class KeepMask(Draw):
    """True with probability 1 - p for each element of x, drawn at each evaluation. No gradient.

    rng   NumPy generator; by default the one that `seed` seeds

    forward    y  = [u >= p],   u uniform in 0 .. 1
    """

    name, signature = "keep_mask", "()->()"

    def __call__(self, x: Operand[T], p: float, rng: np.random.Generator | None = None) -> T | Array:
        return self.apply(x, p=number(self.name, "p", p), rng=rng)

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        args, _ = super().sample(rng, sizes)
        return args, {"p": float(rng.integers(2)), "rng": None}  # all or nothing, so that tests can predict it

    def forward(self, xp: Xp, x: Array, *, p: float, rng: np.random.Generator | None) -> Array:
        if xp is np:
            return np.asarray(uniform_of(rng or _default, np.shape(x), np.float32) >= p)
        y = xp.empty(x.shape, bool)
        self.bound(y, p=p, rng=rng)()
        return y

    def bound(self, out: Array, *, p: float, rng: np.random.Generator | None) -> Callable[[], None]:  # type: ignore[override]
        from tensorgrad.kernels.cuda.launch import keep_mask

        return keep_mask.bind(gpu_state(rng or _default, out), p, out)


class Uniform(Draw):
    """A random number in low .. high for each element of x, drawn at each evaluation. No gradient.

    rng   NumPy generator; by default the one that `seed` seeds

    forward    y  = low + (high - low) u,   u uniform in 0 .. 1, 1 excluded
    """

    name, signature = "uniform", "()->()"
    real = True

    def __call__(self, x: Operand[T], low: float = 0.0, high: float = 1.0, rng: np.random.Generator | None = None) -> T | Array:
        return self.apply(x, low=number(self.name, "low", low), high=number(self.name, "high", high), rng=rng)

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        args, _ = super().sample(rng, sizes)
        return args, {"low": 0.25, "high": 0.25, "rng": None}  # predictable for tests

    def forward(self, xp: Xp, x: Array, *, low: float, high: float, rng: np.random.Generator | None) -> Array:
        if xp is np:
            u = np.asarray(uniform_of(rng or _default, np.shape(x), np.dtype(getattr(x, "dtype", np.float64))))
            u *= high - low
            u += low
            return u
        y = xp.empty(x.shape, x.dtype)
        self.bound(y, low=low, high=high, rng=rng)()
        return y

    def bound(  # type: ignore[override]
        self, out: Array, *, low: float, high: float, rng: np.random.Generator | None
    ) -> Callable[[], None]:
        """Bit by bit, because there is one kernel that draws."""
        bits = np.finfo(out.dtype).nmant + 1
        bit = out.astype(bool)
        draw = keep_mask.bound(bit, p=0.5, rng=rng)

        def run() -> None:
            out.fill(low)
            for i in range(1, bits + 1):
                draw()
                out[...] += bit * out.dtype.type((high - low) * 0.5**i)

        return run


keep_mask, uniform = KeepMask(), Uniform()
