"""Several threads and processes at once: what each computes is what it computes alone, and none waits for what is not there."""

from __future__ import annotations

import gc
import os
import random
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorgrad
from tensorgrad import data, models, nn, optim, train
from tensorgrad.kernels import threads
from tensorgrad.nn import functional as F
from tests.compiled import lowered, num_threads

CONTROLLED = pytest.mark.skipif(not threads.controls_blas(), reason="needs threadpoolctl: pip install threadpoolctl")
FORKS = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork: run it on Linux or macOS")
LIMIT = 60  # seconds until what is still running counts as hanging


def in_threads_of_their_own(work: list[Callable[[], Any]]) -> list[Any]:
    """What each function returns, called in a thread of its own, all at the same time."""
    found: list[Any] = [None] * len(work)
    begin = threading.Barrier(len(work))

    def run(i: int) -> None:
        begin.wait(LIMIT)
        try:
            found[i] = work[i]()
        except BaseException as error:
            found[i] = error

    running = [threading.Thread(target=run, args=(i,), daemon=True) for i in range(len(work))]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join(LIMIT)
        assert not thread.is_alive(), "it hangs"
    for value in found:
        if isinstance(value, BaseException):
            raise value
    return found


# Models that are trained at the same time

NETS = [(784, 100, 100), (500, 300, 400), (784, 150, 90), (300, 400, 500)]  # inputs, units, samples of a batch


def trained(number: int, compiled: bool = True) -> tuple[list[np.ndarray], list[float]]:
    """The parameters and losses of a net of its own; 1 and 3 are split between threads, of 0 and 2 each product is BLAS's."""
    columns, units, rows = NETS[number]
    rng = np.random.default_rng(number)
    net = nn.Sequential(nn.Linear(columns, units, rng=rng), nn.ReLU(), nn.Linear(units, 10, rng=rng))
    x, y = rng.normal(size=(2 * rows, columns)).astype(np.float32), rng.integers(0, 10, 2 * rows)
    loader = data.DataLoader(x, y, batch_size=rows, shuffle=True, rng=0)
    optimiser = optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    history = train.fit(net, F.cross_entropy, optimiser, loader, 3, validation=(x, y), progress=False, compile=compiled)
    return [p.data.copy() for p in net.parameters()], [*history["loss"], *history["val_loss"]]


@CONTROLLED
@pytest.mark.parametrize("eager", [(), (0, 2)])
def test_models_in_threads_are_trained_as_alone(eager: tuple[int, ...]) -> None:
    """To the last bit, though products in one thread of BLAS are others than those in two. eager: those with compile=False."""
    with num_threads(2), lowered(ROWS_FLOPS=1e8):
        alone = [trained(i, i not in eager) for i in range(len(NETS))]
        together = in_threads_of_their_own([lambda i=i: trained(i, i not in eager) for i in range(len(NETS))])
        usual = {library.num_threads for library in threads.blas_libraries()}
    assert usual == {2}
    for (parameters, losses), (others, other_losses) in zip(alone, together, strict=True):
        assert losses == other_losses
        for p, q in zip(parameters, others, strict=True):
            np.testing.assert_array_equal(p, q)


@CONTROLLED
def test_any_thread_can_tell_blas() -> None:
    """Also the second one that does."""

    def number() -> set[int]:
        return {library.num_threads for library in threads.blas_libraries()}

    def told() -> list[set[int]]:
        seen = []
        with threads.single_threaded_blas():
            seen.append(number())
        seen.append(number())
        tensorgrad.set_num_threads(2)
        return [*seen, number()]

    with num_threads(3):
        for _ in range(3):
            assert in_threads_of_their_own([told]) == [[{1}, {3}, {2}]]
            tensorgrad.set_num_threads(3)


@CONTROLLED
@pytest.mark.parametrize("seed", range(4))
def test_blas_by_turns(seed: int) -> None:
    """Threads that need one thread of BLAS, and threads that need it as it is, are never in at once; all have their turn."""
    inside = {"single": 0, "steady": 0}
    lock = threading.Lock()
    wrong: list[str] = []

    def number() -> set[int]:
        return {library.num_threads for library in threads.blas_libraries()}

    def product(kind: str, expected: int) -> None:
        with lock:
            inside[kind] += 1
        for _ in range(20):
            if inside["single"] and inside["steady"]:
                wrong.append("both")
            if number() != {expected}:
                wrong.append(f"{kind} {number()}")
        with lock:
            inside[kind] -= 1

    def work(i: int) -> None:
        rng = random.Random(seed * 100 + i)

        def steady() -> None:
            product("steady", 2)
            if rng.random() < 0.5:  # a plan with a part that is split
                with threads.single_threaded_blas():
                    product("single", 1)
                product("steady", 2)
            threads.with_steady_blas(product, "steady", 2)

        for _ in range(30):
            if rng.random() < 0.5:
                threads.with_steady_blas(steady)
            else:
                with threads.single_threaded_blas():
                    threads.in_threads(lambda a, b: threads.with_steady_blas(product, "single", 1), 2, 2)

    with num_threads(2):
        in_threads_of_their_own([lambda i=i: work(i) for i in range(5)])
        assert not wrong, wrong[:3]
        assert number() == {2}
        assert not threads._turns.queue
        assert not threads._turns.contended


@CONTROLLED
def test_an_error_gives_the_turn_back() -> None:
    def fail() -> None:
        raise ValueError("inside")

    with num_threads(2):
        for _ in range(3):
            with pytest.raises(ValueError, match="inside"):
                threads.with_steady_blas(fail)
            with pytest.raises(ValueError, match="inside"), threads.single_threaded_blas():
                fail()
        assert not threads._turns.steady
        assert not threads._turns.single
        assert {library.num_threads for library in threads.blas_libraries()} == {2}


@CONTROLLED
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("others", [False, True], ids=["alone", "while others wait"])
def test_ctrl_c_at_any_moment_gives_the_turn_back(nested: bool, others: bool) -> None:
    """Raised where Python looks for signals: when a function begins, and after one of C's."""

    def use() -> None:
        with threads.single_threaded_blas():
            pass

    interrupted = 0
    with num_threads(2):
        usual = [library.num_threads for library in threads.blas_libraries()]
        while True:
            left = interrupted

            def look(frame: Any, event: str, argument: Any) -> None:
                nonlocal left
                if event in ("call", "c_return") and frame.f_code.co_filename in (threads.__file__, threading.__file__):
                    left -= 1
                    if left < 0:
                        sys.setprofile(None)
                        raise KeyboardInterrupt

            if others:  # whoever comes has to look
                threads._turns.contended = True
            sys.setprofile(look)
            try:
                threads.with_steady_blas(use) if nested else use()
            except KeyboardInterrupt:
                interrupted += 1
            else:
                break
            finally:
                sys.setprofile(None)
                gc.collect()
            turns = threads._turns
            assert [*turns.single, *turns.steady, *turns.queue] == [], interrupted
            assert turns.lock.acquire(blocking=False), interrupted
            turns.lock.release()
            assert [library.num_threads for library in threads.blas_libraries()] == usual, interrupted
    assert interrupted > 20


def test_parts_that_no_thread_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system has no more threads, who asks does all of it, each part once; errors and order as ever."""

    def none(self: Any) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threads, "_pool", threads.Pool())
    monkeypatch.setattr(threading.Thread, "start", none)
    seen: list[tuple[int, int]] = []
    threads.in_threads(lambda a, b: seen.append((a, b)), 10, 4)
    assert seen == [(0, 2), (2, 5), (5, 7), (7, 10)]
    with pytest.raises(ZeroDivisionError):
        threads.in_threads(lambda a, b: 1 / 0, 10, 4)


def test_plans_are_made_in_threads_at_once() -> None:
    """Each looks whether generators of the whole process were used, and uses them."""

    def made(i: int) -> float:
        w = tensorgrad.Tensor(np.full(3, float(i)), requires_grad=True)
        step = tensorgrad.compile(lambda x: (x * w).sum(), ahead=True)
        return [step(np.ones(3) * k).item() for k in range(4)][-1]

    for _ in range(5):
        assert in_threads_of_their_own([lambda i=i: made(i) for i in range(6)]) == [9.0 * i for i in range(6)]


# Processes

PROGRAM = """
import importlib.util, io, multiprocessing, os, pickle, select, signal, sys, threading, time, warnings
warnings.simplefilter("ignore")
import numpy as np
import tensorgrad as tg
from tensorgrad import data, nn, optim, train
from tensorgrad.kernels import build, loops, thresholds
from tensorgrad.nn import functional as F

thresholds.ROWS_FLOPS, thresholds.CHAIN_THREADS, thresholds.SLICE = 0, 64, 32
tg.set_num_threads(3)
X = np.random.default_rng(0).normal(size=(60, 8)).astype("float32")
Y = (X[:, 0] > 0).astype(int)

def net():
    rng = np.random.default_rng(0)
    return nn.Sequential(nn.Linear(8, 16, rng=rng), nn.ReLU(), nn.Linear(16, 3, rng=rng))

replayed = tg.compile(lambda x: (x * 2 + 1).exp() * 3)
shared, matrix = net(), np.random.default_rng(0).normal(size=(300, 300))
predicted = tg.compile(lambda x: shared(x).softmax())

def replay():
    return replayed(X).numpy().sum()

def split():
    return [predicted(X).numpy().sum() for _ in range(3)][-1]

def planned():
    return tg.compile(lambda x: (x * 3).tanh().sum(0), ahead=True)(X).numpy().sum()

def eager():
    t = tg.Tensor(X, requires_grad=True)
    (t.relu() * 2 + t.tanh()).sum().backward()
    return t.grad.data.sum()

def fitted():
    model = net()
    loader = data.DataLoader(X, Y, batch_size=20, rng=0)
    optimiser = optim.Adam(model.parameters())
    return train.fit(model, F.cross_entropy, optimiser, loader, 2, validation=(X, Y), progress=False)["loss"]

def written():
    model = net()
    loader = data.DataLoader(X, Y, batch_size=30, rng=0)
    return train.fit(model, F.cross_entropy, optim.Adam(model.parameters()), loader, 2, compile=False, progress=False)["loss"]

def estimated():
    from tensorgrad.models import MLPClassifier
    return MLPClassifier((16,), batch_size="full", max_iter=3, random_state=0).fit(X, Y).predict_proba(X).sum()

def inferred():
    return train.predict(shared, X).sum()

def products():
    return (matrix @ matrix).sum()

THINGS = {f.__name__: f for f in (replay, split, planned, eager, fitted, written, inferred, products)}
if importlib.util.find_spec("sklearn"):
    THINGS["estimated"] = estimated
"""

FORKING = (
    PROGRAM
    + """
def in_child(thing):
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(writer, pickle.dumps(thing()))
        except BaseException as error:
            os.write(writer, pickle.dumps(repr(error)))
        os._exit(0)
    try:
        if not select.select([reader], [], [], 20)[0]:
            return "hangs"
        return pickle.loads(os.read(reader, 1 << 16))
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reader), os.close(writer)

def expect(what, found, expected):
    if found != expected:
        print(what, found, expected)

expected = {name: thing() for name, thing in THINGS.items()}
for name, thing in THINGS.items():
    expect(name, in_child(thing), thing())
expect("grandchild", in_child(lambda: in_child(THINGS["split"])), expected["split"])

# while another thread is in the middle of something
from tensorgrad.compiler import compiled
from tensorgrad.kernels import threads
held, go = threading.Event(), threading.Event()

def hold(context):
    with context:
        held.set()
        go.wait(30)

class Steady:
    def __enter__(self):
        threads._turns.enter_steady(threading.get_ident())
    def __exit__(self, *_):
        threads._turns.leave_steady(threading.get_ident())

def parts():
    threads.in_threads(lambda a, b: (held.set(), go.wait(30)), 3, 3)

holding = {
    "a step": lambda: hold(replayed.lock),
    "a step that is split": lambda: hold(predicted.lock),
    "a plan": lambda: hold(compiled._planning),
    "one thread of BLAS": lambda: hold(threads.single_threaded_blas()),
    "BLAS": lambda: hold(Steady()),
    "the turns": lambda: hold(threads._turns.changed),
    "parts": parts,
}
for what, holds in holding.items():
    held.clear(), go.clear()
    thread = threading.Thread(target=holds, daemon=True)
    thread.start()
    held.wait(20)
    for name in ("replay", "split", "planned"):
        expect((what, name), in_child(THINGS[name]), expected[name])
    go.set()
    thread.join(20)
    expect(what, THINGS["split"](), expected["split"])

# whatever lock there is, each for long enough that a fork waits for it, or takes place meanwhile
def locks():
    if build.has_numba():
        from numba.core.compiler_lock import global_compiler_lock
        yield "Numba", global_compiler_lock
    if "tqdm" in sys.modules:
        yield "tqdm", sys.modules["tqdm.std"].TqdmDefaultWriteLock.th_lock
    kinds = type(threading.Lock()), type(threading.RLock()), threading.Condition
    for name in [name for name in sys.modules if name.split(".")[0] == "tensorgrad"]:
        for key, value in list(vars(sys.modules[name]).items()):
            if isinstance(value, kinds):
                yield f"{name}.{key}", value
            elif getattr(value, "__module__", None) == name:
                for attribute, part in list(getattr(value, "__dict__", {}).items()):
                    for lock in (part, getattr(part, "lock", None)):  # of a class or of an instance
                        if isinstance(lock, kinds):
                            yield f"{name}.{key}.{attribute}", lock

def another():
    if "tqdm" in sys.modules:
        sys.modules["tqdm"].tqdm(total=1, file=io.StringIO()).close()
    return tg.compile(lambda x: (x * 5 + 7).relu() * 11, ahead=True)(X).numpy().sum(), fitted()

train.fit(shared, F.cross_entropy, optim.SGD(shared.parameters(), 0.0), data.DataLoader(X, Y, batch_size=60), 1)  # with its bar
expected["split"], anew = split(), another()
found = dict(locks())
for what, lock in found.items():
    held.clear(), go.clear()
    thread = threading.Thread(target=lambda: [lock.acquire(), held.set(), go.wait(0.2), lock.release()])
    thread.start()
    held.wait(20)
    expect(what, in_child(another), anew)
    thread.join()
for what in ("core.forks.loading", "compiler.compiled._planning", "kernels.threads._turns.changed"):
    if f"tensorgrad.{what}" not in found:
        print(what, "was not found")

# in the midst of what this thread does itself
def numbers():
    return [library.num_threads for library in threads.blas_libraries()]

def as_steady():
    return threads.with_steady_blas(lambda: in_child(lambda: (split(), numbers())))

with threads.single_threaded_blas():
    expect("inside", in_child(lambda: (numbers(), split(), numbers())), (numbers(), expected["split"], numbers()))
expect("steady", as_steady(), (expected["split"], numbers()))
if sys.argv[1:] == ["pool"]:
    with multiprocessing.get_context("fork").Pool(2) as pool:
        found = [pool.apply_async(thing).get(60) for thing in THINGS.values()]
    expect("Pool", found, list(expected.values()))
print("end")
"""
)


def run(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A program in a process of its own. On a slow machine it says that kernels are compiled."""
    ended = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        capture_output=True,
        text=True,
        timeout=4 * LIMIT,
        check=False,
    )
    ended.stderr = re.sub(r"compile: .* kernels are compiled\n", "", ended.stderr)
    return ended


@FORKS
@pytest.mark.parametrize("numba", ["", pytest.param("1", marks=pytest.mark.thorough)], ids=["numba", "numpy"])
def test_a_forked_child_does_what_its_parent_did(numba: str) -> None:
    """After all that starts threads, and while other threads are in the middle of something."""
    ended = run(FORKING, *(["pool"] if not numba else []), TENSORGRAD_NO_NUMBA=numba)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "end\n", "")


LOADING = (
    PROGRAM
    + """
loaded = threading.Thread(target=loops.import_numba)
loaded.start()
while "numba" not in sys.modules:
    time.sleep(0.001)
child = os.fork()
if not child:
    signal.alarm(30)
    replay(), split()
    os._exit(0)
loaded.join()
replay(), split()
print("end", os.waitpid(child, 0)[1])
"""
)


@FORKS
def test_forked_while_numba_is_imported() -> None:
    """Python's lock of a module that another thread was importing stays taken in a child."""
    pytest.importorskip("numba", reason="needs Numba: pip install numba")
    ended = run(LOADING)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "end 0\n", "")


def test_no_property_of_the_package_has_a_lock() -> None:
    """functools.cached_property of Python 3.11 has one."""
    of_functools = re.compile(r"@functools\.cached_property|from functools import .*cached_property")
    files = [*Path(tensorgrad.__file__).parent.rglob("*.py"), *Path(models.__file__).parent.rglob("*.py")]
    assert [path.name for path in files if of_functools.search(path.read_text())] == []


ELSEWHERE = """
import sys
import joblib
import program

if __name__ == "__main__":
    expected = [thing() for thing in program.THINGS.values()]
    if sys.argv[1] in ("spawn", "forkserver"):
        with program.multiprocessing.get_context(sys.argv[1]).Pool(2) as pool:
            found = [pool.apply_async(thing).get(100) for thing in program.THINGS.values()]
    else:
        with joblib.parallel_config(sys.argv[1], n_jobs=2):
            found = joblib.Parallel(timeout=100)(joblib.delayed(thing)() for thing in program.THINGS.values())
    for name, a, b in zip(program.THINGS, found, expected):
        if a != b and not program.np.allclose(a, b, rtol=1e-5):  # joblib gives its workers fewer threads
            print(name, a, b)
    print("end")
"""


@pytest.mark.thorough
@pytest.mark.parametrize("way", ["spawn", "forkserver", "loky", "multiprocessing", "threading"])
def test_other_processes_and_joblib(way: str, tmp_path: Any) -> None:
    pytest.importorskip("joblib", reason="needs joblib: pip install joblib")
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "main.py").write_text(ELSEWHERE)
    command = [sys.executable, "-W", "ignore", str(tmp_path / "main.py"), way]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=4 * LIMIT, check=False)
    assert (ended.returncode, ended.stdout) == (0, "end\n"), ended.stderr


ENDS = {
    "idle threads": "split()",
    "a thread that goes on": "threading.Thread(target=lambda: [split() for _ in range(300)]).start()",
    "a daemon that goes on": "threading.Thread(target=lambda: [split() for _ in range(10**6)], daemon=True).start(); split()",
    "at exit": "import atexit; atexit.register(split)",
    "when all is taken down": "sys.kept = type('Kept', (), {'__del__': lambda self: split()})()",
    "an error": "split(); threads_are_there = 1; sys.exit(7)",
}


@pytest.mark.every(3)
@pytest.mark.parametrize("how", ENDS)
def test_the_interpreter_ends(how: str) -> None:
    """Whatever the threads are doing; without a word."""
    ended = run(PROGRAM + "replay(), split()\n" + ENDS[how], TENSORGRAD_NO_NUMBA="1")
    assert (ended.returncode, ended.stdout, ended.stderr) == (7 if how == "an error" else 0, "", "")
