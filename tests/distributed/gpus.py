"""Run by every rank: sums and trainings on the stand-in for GPUs, one for each rank unless said otherwise.

`mpiexec -n 2 python -m mpi4py -m tests.distributed.gpus kind [fault]`

kind    "nccl", "shared" (all ranks on one GPU), "missing" (no NCCL on the last rank), "failing" (it finds no network)
fault   what the last rank does in the middle of a training: "raise", "kill", "stop", "away", "cut" (it loses its connection)
"""

from __future__ import annotations

import os
import signal
import sys
import time
import warnings
from typing import Any

import numpy as np

import tensorgrad
from tensorgrad import Tensor, data, distributed, nn, optim
from tensorgrad.core import backend
from tensorgrad.core.ranks import ranks
from tensorgrad.errors import RankError
from tensorgrad.nn import functional as F
from tests.cuda import fake_cupy as stand_in
from tests.cuda import fake_nccl
from tests.cuda.fake_cupy import Device, fake_cupy
from tests.cuda.gpu import using

DTYPES = ["float16", "float32", "float64", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "bool"]
SAMPLES, BATCH = 22, 10  # the last batch has 2


def sums(dtype: str) -> None:
    """Of arrays of several shapes, against NumPy's sum of what all ranks have."""
    for shape in ((), (0,), (7,), (3, 5)):
        mine = np.random.default_rng(distributed.rank()).integers(0, 40, shape).astype(dtype)
        array = fake_cupy.asarray(mine)
        ranks.all_reduce(array)
        expected = np.sum(ranks.all_gather(mine.astype("float64")), axis=0).astype(dtype)
        np.testing.assert_array_equal(array.get(), expected, err_msg=f"{dtype} {shape}")
    whole = fake_cupy.asarray(np.arange(12).astype(dtype))
    ranks.all_reduce(whole[2:9])  # in the middle of another one
    size = distributed.size()
    np.testing.assert_array_equal(whole.get(), [n * (size if 2 <= n < 9 else 1) for n in np.arange(12).astype(dtype)])


def trained(device: str, compiled: bool, fault: str = "", steps: int = 0) -> list[np.ndarray]:
    """The parameters after two epochs, in float64."""
    tensorgrad.manual_seed(0)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(SAMPLES, 6)), rng.integers(0, 3, SAMPLES)
    model = nn.Sequential(nn.Linear(6, 5, dtype="float64"), nn.Tanh(), nn.Linear(5, 3, dtype="float64")).to(device)
    optimiser = optim.SGD(model, lr=0.1, momentum=0.9)

    def step(x: Any, y: Any) -> Any:
        loss = F.cross_entropy(model(x), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return loss

    run = tensorgrad.compile(step) if compiled else step
    done = 0
    for _ in range(2 if not fault else 10_000):
        for xb, yb in data.DataLoader(x, y, batch_size=BATCH, shuffle=True, rng=1):
            loss = run(Tensor(xb, device=device), Tensor(yb, device=device))
            done += 1
            if fault and distributed.rank() == distributed.size() - 1 and done == 7:
                happens(fault)
            if fault:
                loss.item()
                if steps and done > steps:
                    return []
    return [p.numpy().copy() for p in model.parameters()]


def happens(fault: str) -> None:
    if fault == "raise":
        raise ZeroDivisionError("on purpose")
    if fault == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    if fault == "cut":
        group: Any = ranks.group
        group.links["cuda:0"].comm.cut()
    while fault == "away":
        time.sleep(0.1)


def main(kind: str, fault: str = "") -> None:
    distributed.init(timeout=6 if fault else 60)  # three ranks on two busy cores may be slow
    sys.modules["cupy.cuda.nccl"] = fake_nccl
    stand_in.known = {}
    if kind != "shared":
        Device.first_bus = 1 + 2 * distributed.rank()
    fake_nccl.fails = "SYSTEM_ERROR" if kind == "failing" else ""
    fake_nccl.available = kind != "missing" or distributed.rank() != distributed.size() - 1
    with using("stand-in"), warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        if fault:
            try:
                trained("cuda", False, fault)
            except RankError as error:  # some go on, with new links between their GPUs
                first, before = str(error), len(fake_nccl.sums)
                trained("cuda", False, "none", steps=20)
                assert len(fake_nccl.sums) > before
                print(f"goes on: {first}")
            return
        for dtype in DTYPES:
            sums(dtype)
        print("dtypes:", *dict.fromkeys(fake_nccl.sums))
        fake_nccl.sums.clear()
        for compiled in (False, True):
            found = trained("cuda", compiled)
            with ranks.alone():
                expected = trained("cpu", compiled)
            for a, b in zip(found, expected, strict=True):
                np.testing.assert_allclose(a, b, rtol=0, atol=1e-13)
        print(f"rank {distributed.rank()}: {len(fake_nccl.sums)} sums by NCCL;", *[str(w.message) for w in warned])
        assert backend.current_gpu().id == 0


if __name__ == "__main__":
    main(*sys.argv[1:])
