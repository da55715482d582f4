"""A strict stand-in for CuPy, over NumPy, so that what is meant for a GPU runs in tests without one.

It has what CuPy has and nothing else: names, and the names of their arguments, are those of `cupy_api.json`, which was written
from CuPy itself. It refuses what CuPy refuses: to become a NumPy array unasked, to meet a NumPy array in an operation or an
index, to work on an array of another device than the current one. It counts what a training step must not do (values asked
for, arrays copied from or to main memory), runs out of memory at a limit, fills `empty` with NaN, and runs the CUDA source
of RawModule on the CPU. Capturing a stream records what is launched instead of running it, and refuses what CUDA refuses then.
"""

from __future__ import annotations

import contextlib
import functools
import json
import types
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from tests.cuda.occupancy import MULTIPROCESSORS, Driver

API = json.loads((Path(__file__).parent / "cupy_api.json").read_text())
UFUNC_KEYWORDS = {"out", "dtype", "casting"}


class Counts:
    """What has been done so far. asked: values that Python waited for;  to_host, to_device: copies of arrays;
    lost: pinned memory that was given back while something might still be copied from it."""

    asked = to_host = to_device = launches = lost = 0

    @classmethod
    def clear(cls) -> None:
        cls.asked = cls.to_host = cls.to_device = cls.launches = cls.lost = 0


class OutOfMemoryError(MemoryError):
    """As CuPy's."""


LIMIT = 1 << 26  # bytes that one array may have
DEVICES = 2
_current: list[int] = [0]
_capturing: list[Graph | None] = [None]
underway: list[Any] = []  # what takes its time on a stream (tests.cuda.fake_nccl): all that is asked for later waits for it
known: dict[int, weakref.ref[ndarray]] | None = None  # the arrays, where pointers have to be known again


class Device:
    """A GPU, to be made the current one by `with`. first_bus: the number of the first one's place in the machine."""

    first_bus = 1

    def __init__(self, device: Any = None) -> None:
        self.id = _current[-1] if device is None else int(device)
        if not 0 <= self.id < DEVICES:
            raise RuntimeError("cudaErrorInvalidDevice: invalid device ordinal")

    def __enter__(self) -> Device:
        _current.append(self.id)
        return self

    def __exit__(self, *error: Any) -> None:
        _current.pop()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and other.id == self.id

    __hash__ = None  # type: ignore[assignment]

    def use(self) -> Device:
        _current[-1] = self.id
        return self

    def synchronize(self) -> None:
        forbidden("cudaDeviceSynchronize")

    @property
    def attributes(self) -> dict[str, int]:
        return {"MultiProcessorCount": MULTIPROCESSORS, "MaxThreadsPerBlock": 1024, "WarpSize": 32}

    @property
    def pci_bus_id(self) -> str:
        return f"0000:{Device.first_bus + self.id:02X}:00.0"


class Pointer:
    """Where an array lies: `ptr`, as CuPy's MemoryPointer."""

    def __init__(self, array: np.ndarray) -> None:
        self.ptr = array.__array_interface__["data"][0]


class ndarray:
    """An array on a stand-in GPU. `_a` is what holds it."""

    __slots__ = ("_a", "_id", "_base", "_touched", "__weakref__")
    __hash__ = None  # type: ignore[assignment]
    __array_priority__ = 100

    def __init__(self, shape: Any, dtype: Any = float, *, _a: Any = None, _id: int | None = None, _base: Any = None) -> None:
        self._a = poisoned(shape, dtype) if _a is None else _a
        self._id = _current[-1] if _id is None else _id
        self._base = _base
        self._touched: tuple[Stream, int] | None = None
        if known is not None:
            known[id(self)] = weakref.ref(self)

    def __array__(self, *args: Any, **options: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`.")

    def __array_ufunc__(self, ufunc: Any, method: str, *args: Any, **options: Any) -> Any:
        if method == "__call__":
            return run(ufunc.__name__, ufunc, args, options)
        return getattr(UFunc(ufunc), method)(*args, **options)

    def __array_function__(self, function: Any, kinds: Any, args: Any, options: Any) -> Any:
        return getattr(fake_cupy, function.__name__)(*args, **options)

    @property
    def device(self) -> Device:
        return Device(self._id)

    @property
    def data(self) -> Pointer:
        return Pointer(self._a)

    @property
    def base(self) -> Any:
        return self._base

    @property
    def T(self) -> ndarray:
        return self.transpose()

    def get(self, out: np.ndarray | None = None) -> np.ndarray:
        forbidden("copying to the host")
        touch(self)
        Counts.to_host += 1
        if out is None:
            return self._a.copy()
        out[...] = self._a
        return out

    def set(self, values: Any, stream: Any = None) -> None:
        """From a NumPy array, from pinned memory without waiting."""
        Counts.to_device += 1
        touch(self, stream)
        if stream is not None and (memory := pinned_under(values)) is not None:
            memory.busy = True
            stream.copies.append(weakref.ref(memory))
        self._a[...] = values

    def item(self) -> Any:
        return asked(self).item()

    def tolist(self) -> Any:
        return asked(self).tolist()

    def fill(self, value: Any) -> None:
        same_device((self,))
        either(lambda: self._a.fill(value))

    def copy(self, order: str = "C") -> ndarray:
        """On the current device, as CuPy's."""
        return run("copy", np.copy, (self,), {}) if self._id == _current[-1] else new_array(self)

    def view(self, dtype: Any = None) -> ndarray:
        return viewed(self, self._a.view(dtype))

    def reshape(self, *shape: Any) -> ndarray:
        made = self._a.reshape(*shape)
        return (
            viewed(self, made)
            if np.shares_memory(made, self._a) or not made.size
            else run("copy", lambda a: a.reshape(*shape), (self,), {})
        )

    def __float__(self) -> float:
        return float(asked(self))

    def __int__(self) -> int:
        return int(asked(self))

    def __bool__(self) -> bool:
        return bool(asked(self))

    def __index__(self) -> int:
        return asked(self).__index__()

    def __len__(self) -> int:
        return len(self._a)

    def __iter__(self) -> Iterator[ndarray]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: Any) -> ndarray:
        parts = index if isinstance(index, tuple) else (index,)
        if any(isinstance(i, ndarray) and i.dtype == bool for i in parts):
            forbidden("a boolean index")
            Counts.asked += 1
        if any(isinstance(i, ndarray) for i in parts):
            return run("getitem", lambda a, i: a[wrapped(i, a.shape)], (self, index), {})
        return viewed(self, self._a[plain(index)])

    def __setitem__(self, index: Any, value: Any) -> None:
        if isinstance(value, np.ndarray):
            raise TypeError("Unsupported type <class 'numpy.ndarray'>")
        same_device((self, index, value))

        def put() -> None:
            self._a[wrapped(plain(index), self._a.shape)] = plain(value)

        either(put)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in API["ndarray"]:
            raise AttributeError(f"cupy.ndarray has no attribute {name!r}")
        value = getattr(self._a, name)
        if not callable(value):
            return value
        method = getattr(np.ndarray, name)
        if name in ("transpose", "swapaxes", "squeeze", "diagonal"):
            return lambda *args, **options: viewed(self, method(self._a, *args, **options))
        return lambda *args, **options: run(f"ndarray.{name}", method, (self, *args), options)

    def __repr__(self) -> str:
        return f"fake_cupy.{self._a!r}"

    def __reduce__(self) -> Any:
        return _restored, (self.get(),)


def pinned_under(array: Any) -> PinnedMemory | None:
    while isinstance(array, np.ndarray):
        array = array.base
    array = array.obj if isinstance(array, memoryview) else array
    return array if isinstance(array, PinnedMemory) else None


def _restored(values: np.ndarray) -> ndarray:
    return fake_cupy.asarray(values)


def wrapped(index: Any, shape: tuple[int, ...]) -> Any:
    """As CuPy, which does not look whether an array of integers is out of range: it goes round."""
    parts = index if isinstance(index, tuple) else (index,)
    takes = [0 if i is None or i is Ellipsis else np.ndim(i) if hasattr(i, "dtype") and i.dtype == bool else 1 for i in parts]
    axis, found = 0, []
    for i, n in zip(parts, takes, strict=True):
        is_whole = isinstance(i, np.ndarray) and i.dtype.kind in "iu"
        found.append(i % max(shape[axis], 1) if is_whole and axis < len(shape) else i)
        axis += len(shape) - sum(takes) if i is Ellipsis else n
    return tuple(found) if isinstance(index, tuple) else found[0]


def take_along_axis(a: ndarray, indices: ndarray, axis: int) -> ndarray:
    """Indices that are out of range go round, too."""
    return run("take_along_axis", lambda a, i: np.take_along_axis(a, i % max(a.shape[axis], 1), axis), (a, indices), {})


def asked(array: ndarray) -> np.ndarray:
    """The values, which Python waits for."""
    forbidden("copying to the host")
    Counts.asked += 1
    touch(array)
    return array._a


def forbidden(what: str) -> None:
    if _capturing[-1] is not None:
        raise RuntimeError(f"cudaErrorStreamCaptureUnsupported: {what} while a stream is being captured")


def poisoned(shape: Any, dtype: Any) -> np.ndarray:
    size = int(np.prod(shape, dtype=int)) * np.dtype(dtype).itemsize
    if size > LIMIT:
        raise OutOfMemoryError(f"Out of memory allocating {size:,} bytes (allocated so far: 0 bytes).")
    array = np.empty(shape, dtype)
    poison(array)
    return array


def poison(array: np.ndarray) -> None:
    array.fill(np.nan if array.dtype.kind == "f" else 85)


def plain(value: Any) -> Any:
    """What NumPy takes for `value`; a NumPy array is refused."""
    if isinstance(value, ndarray):
        return value._a
    if isinstance(value, np.ndarray):
        raise TypeError(f"Unsupported type {type(value)}")
    if isinstance(value, (tuple, list)):
        return type(value)(map(plain, value))
    return value


def found_in(value: Any) -> Iterator[ndarray]:
    if isinstance(value, ndarray):
        yield value
    elif isinstance(value, (tuple, list)):
        for v in value:
            yield from found_in(v)


def touch(array: ndarray, stream: Stream | None = None) -> None:
    """An array is used on a stream: what another one has done with it has to come before, for certain."""
    if _capturing[-1] is not None:
        return
    wait()
    stream = _streams[-1] if stream is None else stream
    owner = array if array._base is None else array._base
    if owner._touched is not None and not stream.comes_after(*owner._touched):
        raise AssertionError("an array is used on a stream that does not wait for another one that uses it")
    stream.done[stream] += 1
    owner._touched = stream, stream.done[stream]


def wait() -> None:
    """Until all has ended that takes its time."""
    while underway:
        underway[0].wait()
        underway.pop(0)


def same_device(values: Any) -> None:
    for array in found_in(values):
        touch(array)
        if array._id != _current[-1]:
            raise ValueError(
                f"Array device must be same as the current device: array device = {array._id} while current = {_current[-1]}"
            )


def made(result: Any) -> Any:
    if isinstance(result, (np.ndarray, np.generic)):
        if result.nbytes > LIMIT:
            raise OutOfMemoryError(f"Out of memory allocating {result.nbytes:,} bytes (allocated so far: 0 bytes).")
        return ndarray((), _a=np.asarray(result))
    if isinstance(result, (tuple, list)):
        return type(result)(map(made, result)) if not hasattr(result, "_fields") else type(result)(*map(made, result))
    return result


def viewed(of: ndarray, array: Any) -> ndarray:
    return ndarray(
        (),
        _a=np.asarray(array) if isinstance(array, np.generic) else array,
        _id=of._id,
        _base=of if of._base is None else of._base,
    )


def either(action: Callable[[], None]) -> None:
    """Do it, or write it down while a stream is being captured."""
    graph = _capturing[-1]
    if graph is None:
        action()
    else:
        graph.actions.append(action)
    Counts.launches += 1


def run(name: str, function: Any, args: Any, options: dict[str, Any]) -> Any:
    """A function on the arrays; with `out`, into that one."""
    Counts.launches += 1
    same_device((*args, *options.values()))
    out = options.pop("out", None)
    out = out[0] if isinstance(out, tuple) else out
    if out is not None and not isinstance(out, ndarray):
        raise TypeError(f"return arrays must be of ArrayType, got {type(out)}")
    arguments, keywords = plain(tuple(args)), {key: plain(v) for key, v in options.items()}
    graph = _capturing[-1]
    if graph is not None and (name in ("matmul", "dot", "vdot", "tensordot", "einsum") or name.startswith("linalg.")):
        raise NotImplementedError(f"cupy.{name} is not supported while a stream is being captured")
    with np.errstate(all="ignore"):
        if out is None:
            result = made(function(*arguments, **keywords))
            if graph is not None and isinstance(result, ndarray):
                poison(result._a)  # nothing is computed before the graph is launched
                graph.actions.append(lambda: result._a.__setitem__(..., function(*arguments, **keywords)))
            return result

        def into() -> None:
            with np.errstate(all="ignore"):
                value = function(*arguments, **keywords)
            if value.shape != out.shape or not np.can_cast(value.dtype, out.dtype, "same_kind"):
                raise ValueError(f"out has shape {out.shape} {out.dtype}, the result {value.shape} {value.dtype}")
            out._a[...] = value

        if graph is None:
            into()
        else:
            graph.actions.append(into)
        return out


class UFunc:
    """A ufunc with the methods that CuPy gives it: `reduce` for add and multiply, `at` for those that have atomics."""

    def __init__(self, ufunc: Any) -> None:
        self.ufunc, self.__name__ = ufunc, ufunc.__name__
        self.nin, self.nout, self.nargs = ufunc.nin, ufunc.nout, ufunc.nargs

    def __call__(self, *args: Any, **options: Any) -> Any:
        refuse(options.keys() - UFUNC_KEYWORDS, self.__name__)
        return run(self.__name__, self.ufunc, args, options)

    def reduce(self, a: Any, axis: Any = 0, dtype: Any = None, out: Any = None, keepdims: bool = False) -> Any:
        if self.__name__ not in ("add", "multiply"):
            raise NotImplementedError(f"`cupy_{self.__name__}.reduce` is not supported yet")
        return run(self.__name__, self.ufunc.reduce, (a,), {"axis": axis, "dtype": dtype, "out": out, "keepdims": keepdims})

    def outer(self, a: Any, b: Any) -> Any:
        return run(self.__name__, self.ufunc.outer, (a, b), {})

    def at(self, a: ndarray, indices: Any, b: Any = None) -> None:
        if self.__name__ not in ("add", "subtract", "maximum", "minimum", "bitwise_and", "bitwise_or", "bitwise_xor"):
            raise NotImplementedError(f"`cupy_{self.__name__}.at` is not supported yet")
        same_device((a, indices, b))
        into, where, values = plain(a), plain(indices), plain(b)
        either(lambda: self.ufunc.at(into, where, values))


def refuse(keywords: Any, name: str) -> None:
    if keywords:
        raise TypeError(f"cupy.{name} has no argument {sorted(keywords)}")


def as_cupy(name: str, function: Any, signature: list[str] | None) -> Callable[..., Any]:
    @functools.wraps(function)
    def called(*args: Any, **options: Any) -> Any:
        if signature is not None and not any(s.startswith("**") for s in signature):
            refuse(options.keys() - set(signature), name)
        return run(name, function, args, options)

    return called


VIEWS = {
    "broadcast_to",
    "transpose",
    "swapaxes",
    "moveaxis",
    "squeeze",
    "expand_dims",
    "reshape",
    "ravel",
    "diagonal",
    "rollaxis",
}
PLAIN = {"result_type", "broadcast_shapes", "can_cast", "shape", "ndim", "size", "may_share_memory", "shares_memory"}
MADE = {"zeros", "ones", "full", "eye", "arange", "tri", "linspace", "identity"}


class Module(types.ModuleType):
    """`cupy`, or a part of it."""

    def __init__(self, name: str, names: dict[str, Any], source: Any) -> None:
        super().__init__(name)
        self.__dict__.update(_names=names, _source=source)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name not in self._names:
            raise AttributeError(f"{self.__name__} has no {name!r}")
        kind, source = self._names[name], getattr(self._source, name)
        if kind == "ufunc":
            found: Any = UFunc(source)
        elif kind in ("type", "value"):
            found = source
        elif name in PLAIN:
            found = lambda *args, **options: source(*plain(args), **options)  # noqa: E731
        elif name in VIEWS:
            found = lambda a, *args, **options: viewed(a, source(plain(a), *args, **options))  # noqa: E731
        else:
            found = as_cupy(f"{self.__name__}.{name}".removeprefix("fake_cupy."), source, kind)
        self.__dict__[name] = found
        return found


# CUDA


class Graph:
    """What was launched while a stream was captured."""

    def __init__(self) -> None:
        self.actions: list[Callable[[], None]] = []
        self.device = _current[-1]
        self.spoiled = ""

    def launch(self, stream: Any = None) -> None:
        assert self.device == _current[-1], "a graph of another GPU than the current one"
        Counts.launches += 1
        for action in self.actions:
            action()

    def upload(self, stream: Any = None) -> None:
        pass


class Stream:
    """A stream; all of them run at once here."""

    null: Stream

    def __init__(self, null: bool = False, non_blocking: bool = False, ptds: bool = False, priority: Any = None) -> None:
        self.ptr, self.is_null = 0 if null else id(self), null
        self.device_id = -1 if null else _current[-1]
        self.copies: list[weakref.ref[PinnedMemory]] = []
        self.blocking = not null and not non_blocking
        self.done = {self: 0}  # stream to how much of its work comes before what is asked for here next

    def comes_after(self, other: Stream, work: int) -> bool:
        implied = (self.is_null and other.blocking) or (other.is_null and self.blocking)
        return implied or self.done.get(other, -1) >= work

    def __enter__(self) -> Stream:
        if self.device_id not in (-1, _current[-1]):
            raise RuntimeError(f"The device that the stream is created on ({self.device_id}) does not match")
        _streams.append(self)
        return self

    def __exit__(self, *error: Any) -> None:
        _streams.pop()

    def use(self) -> Stream:
        _streams[-1] = self
        return self

    def begin_capture(self, mode: Any = None) -> None:
        if self.is_null:
            raise RuntimeError("cudaErrorStreamCaptureUnsupported: the default stream cannot be captured")
        _capturing.append(Graph())

    def end_capture(self) -> Graph:
        graph = _capturing.pop()
        assert graph is not None
        if graph.spoiled:
            raise RuntimeError(f"cudaErrorStreamCaptureInvalidated: {graph.spoiled} while a stream was being captured")
        return graph

    def is_capturing(self) -> bool:
        return _capturing[-1] is not None

    def synchronize(self) -> None:
        forbidden("cudaStreamSynchronize")
        Counts.asked += 1
        wait()

    def wait_event(self, event: Any) -> None:
        for stream, work in event.after.items():
            self.done[stream] = max(self.done.get(stream, 0), work)

    def record(self, event: Any = None) -> Event:
        event = event or Event()
        event.record(self)
        return event  # type: ignore[no-any-return]


class Event:
    def __init__(self, block: bool = False, disable_timing: bool = False, interprocess: bool = False) -> None:
        self.copies: list[weakref.ref[PinnedMemory]] = []
        self.after: dict[Stream, int] = {}
        self.underway: list[Any] = []

    @property
    def done(self) -> bool:
        return all(one.is_set() for one in self.underway)

    def record(self, stream: Any = None) -> None:
        stream = _streams[-1] if stream is None else stream
        self.copies, self.after, self.underway = list(stream.copies), dict(stream.done), list(underway)

    def synchronize(self) -> None:
        Counts.asked += 1
        for one in self.underway:
            one.wait()
        for ref in self.copies:
            if (memory := ref()) is not None:
                memory.busy = False


Stream.null = Stream(null=True)
_streams = [Stream.null]


class RawModule:
    """CUDA source, run on the CPU."""

    def __init__(self, *, code: str, options: tuple[str, ...] = (), **more: Any) -> None:
        from tests.cuda.on_cpu import Module as OnCpu

        self.module = OnCpu(code)

    def get_function(self, name: str) -> Any:
        function = self.module.function(name)

        def launch(grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...], *, shared_mem: int = 0) -> None:
            same_device(args)
            arguments = [a._a if isinstance(a, ndarray) else a for a in args]
            either(lambda: function(grid, block, arguments))

        return Driver.kernel(launch)


class MemoryPool:
    """What was asked of it, on which device, since it was told to free its blocks: CuPy's keeps them for ever otherwise."""

    kept: ClassVar[list[tuple[int, str]]] = []  # of all pools together

    def used_bytes(self) -> int:
        return 0

    def total_bytes(self) -> int:
        return 0

    def free_all_blocks(self) -> None:
        MemoryPool.kept[:] = [(i, of) for i, of in self.kept if (i, of) != (_current[-1], hex(id(self)))]

    def malloc(self, size: int) -> Any:
        MemoryPool.kept.append((_current[-1], hex(id(self))))


class PinnedMemory(bytearray):
    """Memory of the host that a GPU copies from without waiting."""

    busy = False

    def __del__(self) -> None:
        Counts.lost += self.busy


_allocators: list[Callable[[int], Any]] = []


@contextlib.contextmanager
def using_allocator(allocator: Any = None) -> Iterator[None]:
    _allocators.append(allocator)
    try:
        yield
    finally:
        _allocators.pop()


def spoil(what: str) -> None:
    """What waits for the device, done by anybody while a stream is captured, ends the capture without an error of its own."""
    if _capturing[-1] is not None:
        _capturing[-1].spoiled = what


_linalg = ["ignore"]


@contextlib.contextmanager
def errstate(*, linalg: str) -> Iterator[None]:
    """cupyx's: whether a decomposition that has failed is looked at; by default nobody does."""
    _linalg.append(linalg)
    try:
        yield
    finally:
        _linalg.pop()


fake_cupyx = types.SimpleNamespace(errstate=errstate)


def decomposed(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of NumPy's linalg with NaN for its error, unless it is asked for."""

    def call(*args: Any) -> Any:
        try:
            return function(*args)
        except np.linalg.LinAlgError:
            if _linalg[-1] == "raise" or args[0].ndim < 2 or args[0].shape[-1] != args[0].shape[-2]:
                raise
            return np.full(args[-1].shape, np.nan)

    return call


def remainder(a: Any, b: Any) -> Any:
    """CuPy's formula."""
    return run(
        "remainder", lambda a, b: a - np.floor_divide(a, b) * b if np.result_type(a, b).kind == "f" else a % b, (a, b), {}
    )


def floor_divide(a: Any, b: Any) -> Any:
    """CuPy's formula, of floating numbers."""
    return run("floor_divide", lambda a, b: np.floor(a / b) if np.result_type(a, b).kind == "f" else a // b, (a, b), {})


class Power(UFunc):
    """CuPy's power, which has a number for integers to negative integer powers, too."""

    def __init__(self) -> None:
        super().__init__(np.power)

    def __call__(self, *args: Any, **options: Any) -> Any:
        def formula(a: Any, b: Any) -> Any:
            if "f" in (np.asarray(a).dtype.kind, np.asarray(b).dtype.kind):
                return np.power(a, b)
            powers = np.power(a, np.abs(b))
            return np.where(np.less(b, 0), np.where(np.abs(powers) == 1, powers, 0), powers).astype(powers.dtype)

        refuse(options.keys() - UFUNC_KEYWORDS, self.__name__)
        return run("power", formula, args, options)


def clip(a: Any, a_min: Any, a_max: Any, out: Any = None) -> ndarray:
    """CuPy refuses booleans without one of the bounds."""
    if a.dtype == bool and (a_min is None or a_max is None):
        raise TypeError("Unsupported type <class 'NoneType'>")
    return run("clip", np.clip, (a, a_min, a_max), {"out": out})


def new_array(a: Any, dtype: Any = None, copy: bool = True) -> ndarray:
    if isinstance(a, ndarray):
        if not copy and a._id == _current[-1] and (dtype is None or a.dtype == dtype):
            return a
        if a._id != _current[-1] and not (a.flags.c_contiguous or a.flags.f_contiguous):
            raise NotImplementedError("CuPy cannot copy non-contiguous array between devices.")
        return ndarray((), _a=np.array(a._a, dtype))
    if isinstance(a, (list, tuple)) and next(found_in(a), None) is not None:
        return run("stack", lambda xs: np.array(xs, dtype), (a,), {})
    Counts.to_device += 1
    forbidden("copying from pageable memory of the host")
    # without axes it is filled, and memory cleared for what equals 0
    return made(np.array(a, dtype) if np.ndim(a) or a != 0 else np.zeros((), dtype or np.asarray(a).dtype))


def empty(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    if _allocators:
        _allocators[-1](1)
    return ndarray(shape, dtype)


def as_strided(x: ndarray, shape: Any = None, strides: Any = None) -> ndarray:
    return viewed(x, np.lib.stride_tricks.as_strided(x._a, shape, strides))


def where(condition: Any, x: Any = None, y: Any = None) -> ndarray:
    """A condition that is a number is none of CuPy's."""
    condition.astype  # noqa: B018
    return run("where", np.where, (condition, x, y), {})


def solve(a: ndarray, b: ndarray) -> ndarray:
    """Leading axes do not broadcast."""
    if b.ndim != 1 and a.shape[:-1] != b.shape[:-1]:
        raise ValueError("a must have (..., M, M) shape and b must have (..., M, K) for multidimensional b")
    return run("linalg.solve", decomposed(np.linalg.solve), (a, b), {})


def smallest(a: ndarray, axis: Any = None, out: Any = None, keepdims: bool = False) -> ndarray:
    """CuPy 14 gives CUB its `out` for a dtype, with which it compares that of a."""
    if out is not None and (a.flags.c_contiguous or a.flags.f_contiguous):
        raise TypeError("operand type(s) all returned NotImplemented from __array_ufunc__")
    return run("min", np.min, (a,), {"axis": axis, "out": out, "keepdims": keepdims})


fake_cupy: Any = Module("fake_cupy", API["cupy"], np)
fake_cupy.__dict__.update(
    ndarray=ndarray,
    linalg=Module("fake_cupy.linalg", API["linalg"], np.linalg),
    where=where,
    take_along_axis=take_along_axis,
    remainder=remainder,
    floor_divide=floor_divide,
    power=Power(),
    clip=clip,
    min=smallest,
    amin=smallest,
    lib=types.SimpleNamespace(stride_tricks=types.SimpleNamespace(as_strided=as_strided)),
    RawModule=RawModule,
    get_default_memory_pool=MemoryPool,
    array=new_array,
    asarray=functools.partial(new_array, copy=False),
    ascontiguousarray=lambda a, dtype=None: a if isinstance(a, ndarray) and a.flags.c_contiguous else new_array(a, dtype),
    asnumpy=lambda a: a.get(),
    empty=empty,
    empty_like=lambda a, dtype=None: ndarray(a.shape, dtype or a.dtype),
    is_available=lambda: True,
    cuda=types.SimpleNamespace(
        Device=Device, Stream=Stream, Event=Event, MemoryPool=MemoryPool, using_allocator=using_allocator,
        get_current_stream=lambda: _streams[-1],
        is_available=lambda: True,
        driver=Driver,
        alloc_pinned_memory=PinnedMemory,
        runtime=types.SimpleNamespace(
            getDeviceCount=lambda: DEVICES, memGetInfo=lambda: (LIMIT, LIMIT), streamCaptureModeThreadLocal=1,
            getDevice=lambda: _current[-1],
        ),
        memory=types.SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
    ),
)  # fmt: skip


fake_cupy.linalg.__dict__["solve"] = solve
fake_cupy.linalg.__dict__["inv"] = lambda a: run("linalg.inv", decomposed(np.linalg.inv), (a,), {})
fake_cupy.linalg.__dict__["cholesky"] = lambda a: run("linalg.cholesky", decomposed(np.linalg.cholesky), (a,), {})


def binary(name: str) -> Callable[..., Any]:
    def operator(self: ndarray, other: Any) -> Any:
        if isinstance(other, np.ndarray):
            raise TypeError(f"Unsupported type {type(other)}")
        if not isinstance(other, (ndarray, np.generic, bool, int, float)):
            return NotImplemented
        if name.startswith("__i"):
            ufunc = getattr(np.ndarray, name.replace("__i", "__"))
            return run(name.strip("_"), ufunc, (self, other), {"out": self})
        return run(name.strip("_"), getattr(np.ndarray, name), (self, other), {})

    return operator


for _n in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor"):
    for _p in ("", "r", "i"):
        setattr(ndarray, f"__{_p}{_n}__", binary(f"__{_p}{_n}__"))
for _n in ("eq", "ne", "lt", "le", "gt", "ge"):
    setattr(ndarray, f"__{_n}__", binary(f"__{_n}__"))
for _n in ("neg", "pos", "abs", "invert"):
    setattr(ndarray, f"__{_n}__", lambda self, _n=_n: run(_n, getattr(np.ndarray, f"__{_n}__"), (self,), {}))
