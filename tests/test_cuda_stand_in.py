"""What only the stand-in for CuPy can tell: the arguments of cuBLAS, memory that runs out, and how strict it is itself."""

from __future__ import annotations

import ctypes
import types
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tensorgrad
from tensorgrad import Tensor
from tensorgrad.core import backend
from tensorgrad.data.transfer import to_gpu
from tensorgrad.errors import DeviceMemoryError
from tensorgrad.kernels import cublas
from tests.cuda.fake_cublas import CuBLAS
from tests.cuda.fake_cupy import API, Counts, fake_cupy
from tests.cuda.gpu import using
from tests.gpu import steps
from tests.gpu.measure import limit, table


@pytest.fixture(autouse=True)
def blas() -> Iterator[CuBLAS]:
    with using("stand-in") as gpu:
        assert gpu.blas is not None
        yield gpu.blas


@settings(max_examples=60)
@given(data=st.data())
def test_products_by_the_arguments_of_blas(data: st.DataObject) -> None:
    """Against NumPy, for rows, columns, parts of a larger matrix, and batches of them."""
    m, n, k = (data.draw(st.integers(1, 5)) for _ in range(3))
    batch = data.draw(st.sampled_from([(), (1,), (3,)]))
    rng = np.random.default_rng(data.draw(st.integers(0, 9)))

    def matrix(rows: int, columns: int) -> np.ndarray:
        how = data.draw(st.sampled_from(["rows", "columns", "part", "part of columns"]))
        wide = 2 if "part" in how else 0
        shape = (*batch, columns, rows + wide) if "columns" in how else (*batch, rows, columns + wide)
        whole = rng.normal(size=shape)
        return (
            whole[..., :rows].swapaxes(-1, -2).swapaxes(-1, -2)[..., :rows].swapaxes(-1, -2)
            if "columns" in how
            else whole[..., :columns]
        )

    a, b = matrix(m, k), matrix(k, n)
    x, y = fake_cupy.empty((*batch, m, k)), fake_cupy.empty((*batch, k, n))
    x._a, y._a = a, b
    out = fake_cupy.empty((*batch, m, n))
    cublas.product(x, y, out)
    np.testing.assert_allclose(out.get(), a @ b, rtol=1e-12, atol=1e-12)


def test_the_arguments_are_those_of_fortran() -> None:
    """The same numbers, given to the sgemm that NumPy itself brings."""
    found = list(Path(np.__path__[0]).parent.glob("numpy.libs/libscipy_openblas64_*.so"))
    if not found:
        pytest.skip("needs the OpenBLAS of NumPy's wheels for Linux: pip install numpy")
    sgemm = ctypes.CDLL(str(found[0])).scipy_sgemm_64_
    rng = np.random.default_rng(0)
    x, w, d = (rng.normal(size=s).astype(np.float32) for s in ((64, 784), (784, 50), (64, 50)))
    for a, b in ((x, w), (x.T, d), (d, w.T)):
        out = np.full((a.shape[0], b.shape[1]), np.nan, np.float32)
        g = cublas.gemm(a, b, out)
        assert g is not None
        whole = [ctypes.byref(ctypes.c_int64(n)) for n in (g.m, g.n, g.k, g.lda, g.ldb, g.ldc)]
        one, zero = (ctypes.byref(ctypes.c_float(v)) for v in (1, 0))
        left, right, target = (array.ctypes.data_as(ctypes.c_void_p) for array in (b, a, out))
        kinds = [ctypes.c_char_p(b"T" if t else b"N") for t in (g.transa, g.transb)]
        sgemm(
            *kinds,
            *whole[:3],
            one,
            left,
            whole[3],
            right,
            whole[4],
            zero,
            target,
            whole[5],
            ctypes.c_size_t(1),
            ctypes.c_size_t(1),
        )
        np.testing.assert_allclose(out, a.astype(float) @ b, rtol=1e-4, atol=1e-4)


def test_the_precision_of_products_is_asked_for(blas: CuBLAS) -> None:
    x = Tensor(np.ones((3, 4), np.float32), device="cuda")
    computed = {"float32": 68, "tf32": 77, "bfloat16": 75, "float16": 74}
    try:
        for precision, number in computed.items():
            tensorgrad.set_matmul_precision(precision)
            assert tensorgrad.get_matmul_precision() == precision
            assert (x @ x.T).dtype == np.float32
            assert blas.calls[-1][-1] == number
            x.to("float64") @ x.T.to("float64")
            assert blas.calls[-1][-1] == 70
    finally:
        tensorgrad.set_matmul_precision("float32")
    with pytest.raises(ValueError, match="expected one of float32, tf32, bfloat16, float16, got 'fp8'"):
        tensorgrad.set_matmul_precision("fp8")


def test_out_of_memory_says_how_much_and_leaves_everything_usable() -> None:
    x = Tensor(np.ones((6_000, 1), np.float32), device="cuda")
    with pytest.raises(
        DeviceMemoryError, match=r"add of \(6000, 1\) float32 on cuda:0, \(1, 6000\) float32 .*: out of memory on"
    ):
        x + x.T
    with pytest.raises(MemoryError, match=r"MiB are in use by arrays, 64 of 64 MiB are free \(Out of memory allocating"):
        x @ x.T
    assert (x * 2).sum().item() == 12_000


def test_batches_are_copied_ahead() -> None:
    rng = np.random.default_rng(0)
    batches = [(rng.normal(size=(n, 3)).astype(np.float32), rng.integers(0, 9, n)) for n in (4, 4, 2)]
    asked_for = []

    def source() -> Iterator[tuple[np.ndarray, ...]]:
        for i, batch in enumerate(batches):
            asked_for.append(i)
            yield batch

    found = []
    for i, (x, y) in enumerate(to_gpu(source(), 1)):
        assert asked_for[-1] == min(i + 1, 2)  # the next one is on its way already
        found.append((x, y))
    assert Counts.to_host == 0
    for (x, y), (a, b) in zip(found, batches, strict=True):
        assert backend.device_of(x) == "cuda:1"
        np.testing.assert_array_equal(x.get(), a)
        np.testing.assert_array_equal(y.get(), b)


@pytest.mark.parametrize("whole", [True, False])
def test_a_loop_over_batches_gives_back_no_memory_that_is_copied_from(whole: bool) -> None:
    """Neither at its end nor where it is left; and the current GPU in it is that of the caller."""
    loop = to_gpu([(np.full(3, i),) for i in range(5)], 1)
    for _ in loop:
        assert fake_cupy.cuda.Device().id == 0
        if not whole:
            break
    del loop
    assert Counts.lost == 0


def test_two_loops_over_batches_for_two_gpus() -> None:
    for (x,), (y,) in zip(*(to_gpu([(np.full(3, i),) for i in range(5)], device) for device in (0, 1)), strict=True):
        assert (backend.device_of(x), backend.device_of(y)) == ("cuda:0", "cuda:1")


def test_the_stand_in_refuses_what_cupy_refuses() -> None:
    x = fake_cupy.asarray(np.ones((2, 3)))
    host = np.ones((2, 3))
    for wrong in (
        lambda: np.asarray(x),
        lambda: x + host,
        lambda: host + x,
        lambda: fake_cupy.add(x, host),
        lambda: np.add(x, x, out=host),
        lambda: x[np.array([0, 1])],
        lambda: x.__setitem__(0, np.ones(3)),
        lambda: fake_cupy.sum(x, where=x > 0),
        lambda: fake_cupy.maximum.reduce(x),
        lambda: fake_cupy.errstate,
        lambda: x.partition_by,
    ):
        with pytest.raises((TypeError, AttributeError, NotImplementedError)):
            wrong()
    with pytest.raises(ValueError, match="Array device must be same"), fake_cupy.cuda.Device(1):
        x + 1
    assert np.isnan(fake_cupy.empty(3)._a).all()
    assert fake_cupy.sum(x).shape == ()


def test_the_list_of_names_is_cupys_own() -> None:
    cupy = pytest.importorskip("cupy", reason="needs CuPy: pip install 'cupy-cuda12x[ctk]'")
    if not isinstance(cupy, types.ModuleType) or cupy.__version__ != API["version"]:
        pytest.skip(f"needs the CuPy that the list was written from: pip install cupy-cuda12x=={API['version']}")
    for part, names in (("cupy", cupy), ("linalg", cupy.linalg)):
        public = {n for n in dir(names) if not n.startswith("_") and not isinstance(getattr(names, n), types.ModuleType)}
        assert API[part].keys() == public


def test_the_benchmark_for_a_gpu_runs_here_too() -> None:
    """Its step learns, as it is written and compiled; the limit is that of the slower of memory and arithmetic."""
    net = ((6, 8, 3), 4)
    x, y = np.random.default_rng(0).random((4, 6), np.float32), np.array([0, 1, 2, 0])
    losses = []
    for peer in ("tensorgrad", "tensorgrad eager"):
        step = steps.PEERS[peer][1](net[0], x, y)
        losses.append([step().item() for _ in range(5)])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
    assert losses[0][-1] < losses[0][0]
    flops = 2 * 4 * (6 * 8 * 2 + 8 * 3 * 3)
    moved = 4 * (4 * (2 * 6 + 4 * 11) + 5 * (6 * 8 + 8 + 8 * 3 + 3))
    assert limit(net, {"copy": 1e30, "float32": 10.0}, "float32") == flops / 10
    assert limit(net, {"copy": 10.0, "float32": 1e30}, "float32") == moved / 10
    rows = list(table(net, {"tensorgrad": [2.0, 1.0, 3.0], "PyTorch eager": [4.0]}, {"copy": moved, "float32": 1e30}))
    assert rows[1] == ["tensorgrad", "2,000.0 ms", "1,000.0 ms to 3,000.0 ms", "1.00", "0.50"]
    assert rows[2][3:] == ["2.00", "0.25"]
