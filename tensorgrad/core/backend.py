"""Array modules and devices: NumPy or CuPy, detected from the arrays, and device names: "cpu", "cuda", "cuda:1"."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import re
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeAlias, TypeVar

import numpy as np

from tensorgrad.errors import DeviceError, DeviceMemoryError, DTypeError, LabelError, MissingDependencyError, TensorgradError

Array: TypeAlias = Any  # numpy.ndarray or cupy.ndarray; CuPy may not be installed
Xp: TypeAlias = Any  # the module of an array: numpy or cupy

Item_co = TypeVar("Item_co", covariant=True)


class Nested(Protocol[Item_co]):
    """A sequence of items, or of such sequences; not strings, which are sequences of strings."""

    def __len__(self) -> int: ...
    def __contains__(self, value: object, /) -> bool: ...
    def __getitem__(self, index: int, /) -> Item_co | Nested[Item_co]: ...


class CudaArray(Protocol):
    """A GPU array."""

    @property
    def __cuda_array_interface__(self) -> Any: ...


class HasArray(Protocol):
    """Anything NumPy can convert to an array: a column of a table, an array of another library."""

    def __array__(self) -> Any: ...


# Valid array arguments of ops: NumPy or CuPy arrays, numbers, nested lists of numbers
Numbers: TypeAlias = float | np.ndarray[Any, Any] | np.generic | CudaArray | Nested[float | np.ndarray[Any, Any] | np.generic]

DEFAULT_FLOAT = np.float32

_cupy: Any = None  # the GPU array module, once loaded
_NO_GPU = contextlib.nullcontext()  # of all arrays that are on no GPU


def cupy() -> Any:
    """Import CuPy. Raises MissingDependencyError if it is not installed, and DeviceError if it finds no GPU."""
    if _cupy is None:
        try:
            import cupy as module
        except ImportError as error:
            raise MissingDependencyError(
                "device 'cuda' needs CuPy: pip install 'cupy-cuda13x[ctk]', or 'cupy-cuda12x[ctk]' for a CUDA 12 driver"
            ) from error
        if not module.cuda.is_available():
            raise DeviceError("device 'cuda': CuPy is installed, but finds no GPU (no driver, or none visible)")
        use(module)
    return _cupy


def use(module: Any) -> None:
    """Use this module for GPU arrays."""
    global _cupy
    _cupy = module


class Placeholder:
    """Stands for an array while a formula is traced; ops pass it to NumPy functions."""


def namespace(arrays: Iterable[Any]) -> Xp:
    """The array module of `arrays`; numpy for numbers only. Raises DeviceError if they are on several devices."""
    if _cupy is None:
        return np
    first: Array | None = None
    for a in arrays:
        if type(a) is np.ndarray or type(a) is _cupy.ndarray:
            if first is None:
                first = a
            elif type(a) is not type(first) or (type(a) is not np.ndarray and a.device.id != first.device.id):
                raise DeviceError(f"arrays on {device_of(first)} and on {device_of(a)}; move one of them with .to(device)")
    return np if first is None or type(first) is np.ndarray else _cupy


@functools.cache
def dtype_name(dtype: Any) -> str:
    """The name of a dtype; NumPy takes some microseconds to find it."""
    return str(dtype)


def is_array(value: object) -> bool:
    """Whether `value` is an array (or an array scalar) of an array module."""
    return isinstance(value, (np.ndarray, np.generic)) or on_gpu(value)


def on_gpu(value: object) -> bool:
    """Whether `value` is a GPU array."""
    if _cupy is not None:
        return type(value) is _cupy.ndarray
    if isinstance(value, np.ndarray) or type(value).__module__.partition(".")[0] != "cupy":
        return False
    cupy()
    return True


# Devices


def device_of(array: Array) -> str:
    """The device of an array: "cpu", "cuda:0", ..."""
    return f"cuda:{array.device.id}" if on_gpu(array) else "cpu"


def as_device(name: Any) -> str:
    """A full device name: "cpu", or "cuda:0" for "cuda". Raises DeviceError for other names and missing GPUs."""
    match = re.fullmatch(r"cpu|cuda(?::(\d+))?", name) if isinstance(name, str) else None
    if match is None:
        raise DeviceError(f"device: expected 'cpu', 'cuda' or 'cuda:1', got {name!r}")
    if name == "cpu":
        return "cpu"
    module = cupy()
    index = int(match[1]) if match[1] else module.cuda.Device().id
    count = module.cuda.runtime.getDeviceCount()
    if index >= count:
        raise DeviceError(f"device: there is no {name!r}, only {count} GPU{'s' * (count != 1)}, starting at 'cuda:0'")
    return f"cuda:{index}"


def move(array: Array, device: str) -> Array:
    """The array on a device: itself if it is there, else a copy."""
    source, target = device_of(array), as_device(device)
    if source == target:
        return array
    with out_of_memory(f"moving {array.shape} {array.dtype} to {target}"):
        if target == "cpu":
            with on(array):
                return array.get()
        if source != "cpu":  # CuPy can only copy contiguous arrays between GPUs
            with on(array):
                array = cupy().ascontiguousarray(array)
        with cupy().cuda.Device(int(target.removeprefix("cuda:"))):
            # CuPy fills 0-d arrays by value, which turns -0.0 into 0
            return cupy().asarray(array) if array.ndim else cupy().asarray(array.reshape(1)).reshape(())


def current_gpu() -> Any:
    """The current GPU, as CuPy's Device; None before a GPU is used."""
    return None if _cupy is None else _cupy.cuda.Device()


def wait_for(array: Array) -> float:
    """Wait for an array on a GPU, and return the time, by time.perf_counter."""
    if on_gpu(array):
        with on(array):
            cupy().cuda.get_current_stream().synchronize()
    return time.perf_counter()


def put(target: Array, values: Any) -> None:
    """target[...] = values, an array on any device or a number."""
    with on(target):
        target[...] = like(values if is_array(values) else np.asarray(values), target) if np.ndim(values) else values


def copy(array: Array) -> Array:
    """A copy on the same device."""
    if not on_gpu(array):
        return array.copy()
    with array.device:
        return array.copy()


def on(array: Array) -> AbstractContextManager[Any]:
    """Context manager: make the GPU of an array the current one, which CuPy uses."""
    return array.device if on_gpu(array) else _NO_GPU


def like(array: Array, other: Array) -> Array:
    """`array` on the device of `other`."""
    return array if _cupy is None else move(array, device_of(other))


def on_gpu_of(array: Array, others: Iterable[Any]) -> Array:
    """`array` on the GPU of the others, if one of them is on a GPU."""
    gpu = None if _cupy is None else next((a for a in others if on_gpu(a)), None)
    return array if gpu is None else like(array, gpu)


def address(array: Array) -> int:
    """The memory address of an array's first element, on its device."""
    return int(array.data.ptr if on_gpu(array) else array.__array_interface__["data"][0])


def may_overlap(a: Array, b: Array) -> bool:
    """Whether the address ranges of two arrays overlap."""
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and np.may_share_memory(a, b)
    return type(a) is type(b) and bool(cupy().may_share_memory(a, b))


def as_bytes(array: Array) -> bytes:
    """The bytes of an array's elements, in order."""
    with on(array):
        return bytes((array.get() if on_gpu(array) else array).tobytes())


def digest(array: Array) -> str:
    """A short hash of shape, dtype and elements."""
    return f"{array.shape} {array.dtype} {hashlib.blake2b(as_bytes(array), digest_size=16).hexdigest()}"


@contextlib.contextmanager
def out_of_memory(what: str) -> Any:
    """Context manager: turn an array module's MemoryError into ours, with sizes, and free its memory pool."""
    try:
        yield
    except DeviceMemoryError:
        raise
    except MemoryError as error:
        raise memory_error(what, error) from error


def memory_error(what: str, error: MemoryError) -> DeviceMemoryError:
    """The error for a result that did not fit, with the memory in use on a GPU."""
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
    """The available main memory in bytes; a very large number if the system does not report it."""
    try:
        with open("/proc/meminfo") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        return sys.maxsize


# Errors on a GPU are reported when a value is read, because checking would wait for the GPU

# device, message and type of error to a boolean on the device, True if it has occurred; never replaced: captured steps write it
_pending_errors: dict[tuple[str, str, type[TensorgradError]], Array] = {}
checks: dict[Any, Callable[[], None]] = {}  # registered by kernels, called by `settle`


def check(wrong: Array, message: str, kind: type[TensorgradError] = LabelError) -> None:
    """Raise this error if any element of the boolean array `wrong` is true; on a GPU later, in `settle`."""
    if not on_gpu(wrong):
        if wrong.any():
            raise kind(message)
        return
    key = device_of(wrong), message, kind
    if key not in _pending_errors:
        _pending_errors[key] = cupy().zeros((), bool)
    _pending_errors[key] |= wrong.any()


def forget() -> None:
    """Discard pending checks."""
    _pending_errors.clear()
    checks.clear()


def settle() -> None:
    """Raise errors found on GPUs by `check` or a kernel since the last call."""
    for raise_pending in checks.values():
        raise_pending()
    for (device, message, kind), is_error in _pending_errors.items():
        if bool(is_error):
            with on(is_error):
                is_error.fill(False)
            raise kind(f"{message} (found on {device}, in an earlier operation)")


def asarray(value: Any, dtype: Any = None, *, where: str = "Tensor") -> Array:
    """`value` as an array, on its device: arrays keep their dtype and are not copied, numbers and lists become float32.

    Objects with `__array__` (pandas columns, other libraries' arrays) keep their dtype, too.

    Raises DTypeError, naming the caller `where`, for data that are neither numeric nor boolean.
    """
    dtype = None if dtype is None else as_dtype(dtype, where)
    if isinstance(value, np.ndarray) and type(value) is not np.ndarray:
        numpy_ma = sys.modules.get("numpy.ma")  # None if it is not imported: then there are no masked arrays
        if numpy_ma is not None and isinstance(value, numpy_ma.MaskedArray):
            raise DTypeError(f"{where}: masked arrays are not supported, their masks would be lost; .filled() returns an array")
        value = np.asarray(value)  # np.matrix and the like have other semantics
    if is_array(value):
        array = value if dtype is None else value.astype(dtype, copy=False)
        array = array if hasattr(array, "flags") and not isinstance(array, np.generic) else np.asarray(array)
    else:
        try:
            array = np.asarray(value, dtype)
        except (ValueError, TypeError) as error:
            raise DTypeError(f"{where}: cannot convert {type(value).__name__} to an array: {error}") from error
        # Python numbers and lists; anything with its own dtype (a table column, for example) keeps it
        if dtype is None and array.dtype.kind in "iuf" and not hasattr(value, "__array__"):
            array = array.astype(DEFAULT_FLOAT)
    if not is_number(array.dtype):
        if hasattr(value, "toarray"):
            raise DTypeError(
                f"{where}: sparse matrices are not supported here, got {type(value).__name__}; .toarray() makes a dense one"
            )
        raise DTypeError(f"{where}: expected numbers or booleans, got dtype {array.dtype} (from {type(value).__name__})")
    return array if array.dtype.isnative else native(array)


# Dtypes: NumPy's boolean, integer and floating ones, and bfloat16 of ml_dtypes, which to NumPy is not numeric

HALVES = "eE"  # `char` of float16 and bfloat16


def is_floating(dtype: Any) -> bool:
    """Whether a NumPy dtype is floating, including bfloat16."""
    return bool(dtype.kind == "f" or (dtype.kind == "V" and dtype.name == "bfloat16"))


def is_half(dtype: Any) -> bool:
    """Whether a dtype is float16 or bfloat16."""
    return dtype.char in HALVES and is_floating(dtype)


def is_number(dtype: Any) -> bool:
    """Whether a Tensor can have this dtype."""
    return dtype.kind in "biuf" or is_floating(dtype)


def native(array: Array) -> Array:
    """The same numbers in native byte order, for kernels."""
    return array.astype(array.dtype.newbyteorder("="))


def as_dtype(dtype: Any, where: str = "dtype") -> Any:
    """A NumPy dtype in native byte order; "bfloat16" is that of ml_dtypes.

    Raises MissingDependencyError if ml_dtypes is not installed, DTypeError for an invalid dtype.
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
        checked = np.dtype(dtype)
    except (TypeError, ValueError) as error:  # ValueError if the `dtype` attribute is not NumPy's
        raise DTypeError(f"{where}: {error}; expected a floating, integer or boolean dtype") from error
    return checked if checked.isnative else checked.newbyteorder("=")


def finfo(dtype: Any) -> Any:
    """np.finfo, also for bfloat16."""
    if dtype.kind == "f":
        return np.finfo(dtype)
    import ml_dtypes

    bfloat16_finfo: Any = ml_dtypes.finfo
    return bfloat16_finfo(dtype)
