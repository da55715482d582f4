"""Where arrays live: NumPy or CuPy, found from the arrays themselves, and devices by name: "cpu", "cuda", "cuda:1"."""

from __future__ import annotations

import contextlib
import hashlib
import re
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeAlias, TypeVar

import numpy as np

from tensorgrad.errors import DeviceError, DeviceMemoryError, DTypeError, LabelError, MissingDependencyError, TensorgradError

Array: TypeAlias = Any  # numpy.ndarray or cupy.ndarray; CuPy is not there to be named when it is not installed
Xp: TypeAlias = Any  # the module that made the array: numpy or cupy

Item_co = TypeVar("Item_co", covariant=True)


class Nested(Protocol[Item_co]):
    """A sequence of items, or of such sequences. A string, which is a sequence of strings without end, is none."""

    def __len__(self) -> int: ...
    def __contains__(self, value: object, /) -> bool: ...
    def __getitem__(self, index: int, /) -> Item_co | Nested[Item_co]: ...


class CudaArray(Protocol):
    """An array on a GPU."""

    @property
    def __cuda_array_interface__(self) -> Any: ...


class HasArray(Protocol):
    """What NumPy can make an array of: a column of a table, an array of another library."""

    def __array__(self) -> Any: ...


# What an op makes an array of: one of NumPy's or CuPy's, a number, nested lists of them
Numbers: TypeAlias = float | np.ndarray[Any, Any] | np.generic | CudaArray | Nested[float | np.ndarray[Any, Any] | np.generic]

DEFAULT_FLOAT = np.float32

_cupy: Any = None  # the module of arrays on GPUs, once there is one


def cupy() -> Any:
    """CuPy. Raises MissingDependencyError where it is not installed, and DeviceError where it finds no GPU."""
    if _cupy is None:
        try:
            import cupy as found
        except ImportError as error:
            raise MissingDependencyError(
                "device 'cuda' needs CuPy: pip install 'cupy-cuda13x[ctk]', or 'cupy-cuda12x[ctk]' for a driver of CUDA 12"
            ) from error
        if not found.cuda.is_available():
            raise DeviceError("device 'cuda': CuPy is installed, but finds no GPU (no driver, or none visible)")
        use(found)
    return _cupy


def use(module: Any) -> None:
    """Take arrays of this module as those on GPUs."""
    global _cupy
    _cupy = module


class Placeholder:
    """Stands for an array in a formula that is being written down; ops hand it on to the functions of NumPy that they call."""


def namespace(arrays: Iterable[Any]) -> Xp:
    """The array module of `arrays`; numpy when there are only numbers. Raises DeviceError where they are on several devices."""
    if _cupy is None:
        return np
    found: Array | None = None
    for a in arrays:
        if type(a) is np.ndarray or type(a) is _cupy.ndarray:
            if found is None:
                found = a
            elif type(a) is not type(found) or (type(a) is not np.ndarray and a.device.id != found.device.id):
                raise DeviceError(f"arrays on {device_of(found)} and on {device_of(a)}; move one of them with .to(device)")
    return np if found is None or type(found) is np.ndarray else _cupy


def is_array(value: object) -> bool:
    """Whether `value` is an array (or an array scalar) of one of the array modules."""
    return isinstance(value, (np.ndarray, np.generic)) or on_gpu(value)


def on_gpu(value: object) -> bool:
    """Whether `value` is an array on a GPU."""
    if _cupy is not None:
        return type(value) is _cupy.ndarray
    if isinstance(value, np.ndarray) or type(value).__module__.partition(".")[0] != "cupy":
        return False
    cupy()
    return True


# Devices


def device_of(array: Array) -> str:
    """The name of the device that an array is on: "cpu", "cuda:0", ..."""
    return f"cuda:{array.device.id}" if on_gpu(array) else "cpu"


def as_device(name: Any) -> str:
    """A device's full name: "cpu", or "cuda:0" for "cuda". Raises DeviceError for any other, or a GPU that is not there."""
    match = re.fullmatch(r"cpu|cuda(?::(\d+))?", name) if isinstance(name, str) else None
    if match is None:
        raise DeviceError(f"device: expected 'cpu', 'cuda' or 'cuda:1', got {name!r}")
    if name == "cpu":
        return "cpu"
    module = cupy()
    index = int(match[1]) if match[1] else module.cuda.Device().id
    count = module.cuda.runtime.getDeviceCount()
    if index >= count:
        raise DeviceError(f"device: there is no {name!r}, only {count} GPU{'s' * (count != 1)}, from 'cuda:0' on")
    return f"cuda:{index}"


def move(array: Array, device: str) -> Array:
    """The array on a device: itself if it is there already, else a copy."""
    here, there = device_of(array), as_device(device)
    if here == there:
        return array
    with out_of_memory(f"moving {array.shape} {array.dtype} to {there}"):
        if there == "cpu":
            with on(array):
                return array.get()
        if here != "cpu":  # CuPy copies from one GPU to another only what is in one piece
            with on(array):
                array = cupy().ascontiguousarray(array)
        with cupy().cuda.Device(int(there.removeprefix("cuda:"))):
            # CuPy fills an array without axes with its value, and takes -0.0 for 0
            return cupy().asarray(array) if array.ndim else cupy().asarray(array.reshape(1)).reshape(())


def current_gpu() -> Any:
    """The GPU that is the current one, as CuPy's Device; None before any is in use."""
    return None if _cupy is None else _cupy.cuda.Device()


def wait_for(array: Array) -> float:
    """The time, by time.perf_counter, at which an array has been computed: that of now, but for a GPU."""
    if on_gpu(array):
        with on(array):
            cupy().cuda.get_current_stream().synchronize()
    return time.perf_counter()


def put(target: Array, values: Any) -> None:
    """target[...] = values, an array of any device or a number."""
    with on(target):
        target[...] = like(values if is_array(values) else np.asarray(values), target) if np.ndim(values) else values


def copy(array: Array) -> Array:
    """A copy, on the same device."""
    if not on_gpu(array):
        return array.copy()
    with array.device:
        return array.copy()


def on(array: Array) -> AbstractContextManager[Any]:
    """Make the GPU that an array is on the current one, where CuPy runs what it is asked for."""
    return array.device if on_gpu(array) else contextlib.nullcontext()


def like(array: Array, other: Array) -> Array:
    """`array` on the device of `other`."""
    return array if _cupy is None else move(array, device_of(other))


def beside(array: Array, others: Iterable[Any]) -> Array:
    """`array`, on the GPU that one of the others is on, if one is."""
    gpu = None if _cupy is None else next((a for a in others if on_gpu(a)), None)
    return array if gpu is None else like(array, gpu)


def address(array: Array) -> int:
    """Where the first element of an array lies in the memory of its device."""
    return int(array.data.ptr if on_gpu(array) else array.__array_interface__["data"][0])


def may_overlap(a: Array, b: Array) -> bool:
    """Whether arrays may have memory in common, by the first and the last byte of each."""
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and np.may_share_memory(a, b)
    return type(a) is type(b) and bool(cupy().may_share_memory(a, b))


def as_bytes(array: Array) -> bytes:
    """What is in the memory of an array, element after element."""
    with on(array):
        return bytes((array.get() if on_gpu(array) else array).tobytes())


def digest(array: Array) -> str:
    """A short text that is another one when the shape, the dtype or one of the elements is."""
    return f"{array.shape} {array.dtype} {hashlib.blake2b(as_bytes(array), digest_size=16).hexdigest()}"


@contextlib.contextmanager
def out_of_memory(what: str) -> Any:
    """Let an array module's MemoryError inside of the block be ours, with sizes; what its pool kept is given back."""
    try:
        yield
    except DeviceMemoryError:
        raise
    except MemoryError as error:
        raise memory_error(what, error) from error


def memory_error(what: str, error: MemoryError) -> DeviceMemoryError:
    """The error that says what did not fit, and on a GPU how much of it is in use."""
    if _cupy is None or type(error).__module__.partition(".")[0] == "numpy":
        return DeviceMemoryError(f"{what}: out of memory: {error}")
    pool = _cupy.get_default_memory_pool()
    used = pool.used_bytes()
    pool.free_all_blocks()
    free, total = _cupy.cuda.runtime.memGetInfo()
    return DeviceMemoryError(
        f"{what}: out of memory on cuda:{_cupy.cuda.Device().id}: {used / 2**20:,.0f} MiB are in use by arrays, "
        f"{free / 2**20:,.0f} of {total / 2**20:,.0f} MiB are free ({error})"
    )


def memory_left() -> int:
    """So many bytes of main memory may be taken yet; a very large number where the system does not say."""
    try:
        with open("/proc/meminfo") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        return sys.maxsize


# What is wrong on a GPU is found out when a value is asked for: to look would be to wait for the GPU

# device, message and kind of error: a boolean there, True if it has happened. It stays where it is: captured steps write to it
_happened: dict[tuple[str, str, type[TensorgradError]], Array] = {}
checks: dict[Any, Callable[[], None]] = {}  # functions that kernels leave here, to be called by `settle`


def check(wrong: Array, message: str, kind: type[TensorgradError] = LabelError) -> None:
    """Raise an error of this kind and message where `wrong` (a boolean array) holds anywhere; for a GPU, in `settle`."""
    if not on_gpu(wrong):
        if wrong.any():
            raise kind(message)
        return
    key = device_of(wrong), message, kind
    if key not in _happened:
        _happened[key] = cupy().zeros((), bool)
    _happened[key] |= wrong.any()


def forget() -> None:
    """Let go of what `settle` would have to look at."""
    _happened.clear()
    checks.clear()


def settle() -> None:
    """Raise what `check`, or a kernel, has found on GPUs since the last time."""
    for found_out in checks.values():
        found_out()
    for (device, message, kind), happened in _happened.items():
        if bool(happened):
            with on(happened):
                happened.fill(False)
            raise kind(f"{message} (found on {device}, in an operation before this one)")


def asarray(value: Any, dtype: Any = None, *, where: str = "Tensor") -> Array:
    """`value` as an array, where it is: arrays keep their dtype and are not copied, numbers and lists become float32.

    What has an `__array__` (pandas' columns, other libraries' arrays) keeps its dtype, too.

    Raises DTypeError, with `where` naming who asked, for what is not made of numbers or booleans.
    """
    dtype = None if dtype is None else as_dtype(dtype, where)
    if isinstance(value, np.ndarray) and type(value) is not np.ndarray:
        if isinstance(value, np.ma.MaskedArray):
            raise DTypeError(f"{where}: masked arrays are not taken, for their masks would be lost; .filled() gives an array")
        value = np.asarray(value)  # np.matrix and the like have other rules
    if is_array(value):
        array = value if dtype is None else value.astype(dtype, copy=False)
        array = array if hasattr(array, "flags") and not isinstance(array, np.generic) else np.asarray(array)
    else:
        try:
            array = np.asarray(value, dtype)
        except (ValueError, TypeError) as error:
            raise DTypeError(f"{where}: cannot make an array of {type(value).__name__}: {error}") from error
        # numbers of Python's and lists of them; what has a dtype of its own (a column of a table, say) keeps it
        if dtype is None and array.dtype.kind in "iuf" and not hasattr(value, "__array__"):
            array = array.astype(DEFAULT_FLOAT)
    if not is_number(array.dtype):
        if hasattr(value, "toarray"):
            raise DTypeError(
                f"{where}: sparse matrices are not taken, got {type(value).__name__}; .toarray() makes a dense one"
            )
        raise DTypeError(f"{where}: expected numbers or booleans, got dtype {array.dtype} (from {type(value).__name__})")
    return array if array.dtype.isnative else native(array)


# Dtypes: NumPy's booleans, integers and floating ones, and bfloat16 of the package ml_dtypes, which NumPy takes for no number

HALVES = "eE"  # `char` of float16 and bfloat16


def is_floating(dtype: Any) -> bool:
    """Whether a dtype of NumPy's is of real numbers, bfloat16 among them."""
    return bool(dtype.kind == "f" or (dtype.kind == "V" and dtype.name == "bfloat16"))


def is_half(dtype: Any) -> bool:
    """Whether a dtype is float16 or bfloat16."""
    return dtype.char in HALVES and is_floating(dtype)


def is_number(dtype: Any) -> bool:
    """Whether a Tensor can be of this dtype."""
    return dtype.kind in "biuf" or is_floating(dtype)


def native(array: Array) -> Array:
    """The same numbers in the byte order of this machine, which kernels read."""
    return array.astype(array.dtype.newbyteorder("="))


def as_dtype(dtype: Any, where: str = "dtype") -> Any:
    """NumPy's dtype object, in the byte order of this machine; "bfloat16" by name is that of ml_dtypes.

    Raises MissingDependencyError where ml_dtypes is not installed, DTypeError for what is no dtype.
    """
    if isinstance(dtype, str) and dtype == "bfloat16":
        try:
            import ml_dtypes
        except ImportError as error:
            raise MissingDependencyError(
                f"{where}: bfloat16 needs ml_dtypes, which is not installed; pip install ml_dtypes"
            ) from error
        dtype = ml_dtypes.bfloat16
    try:
        found = np.dtype(dtype)
    except (TypeError, ValueError) as error:  # the latter of what has a `dtype` that is not NumPy's
        raise DTypeError(f"{where}: {error}; expected a floating, integer or boolean dtype") from error
    return found if found.isnative else found.newbyteorder("=")


def finfo(dtype: Any) -> Any:
    """np.finfo, of bfloat16 too."""
    if dtype.kind == "f":
        return np.finfo(dtype)
    import ml_dtypes

    found: Any = ml_dtypes.finfo
    return found(dtype)
