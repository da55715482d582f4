"""Files of unknown origin, hundreds a second: `python -m tests.fuzz_files --reader csv --seconds 600`.

Good files are changed at random, from the outside (bits, pieces, lengths) and from the inside, with checksums that are right.
A reader may raise the library's errors and nothing else, takes no more than a second and a gigabyte, and what it reads is what
somebody else reads: NumPy, Python's csv, the safetensors library, the checkpoint written anew. Where atheris is installed
(`--engine atheris`), it looks for inputs that go new ways through the code. What has failed is written to --out.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import gzip
import io
import json
import math
import os
import re
import resource
import signal
import struct
import sys
import tempfile
import time
import types
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tensorgrad import data, nn, optim, train
from tensorgrad.data import storage
from tensorgrad.errors import TensorgradError
from tensorgrad.train import checkpoint

SLOWEST = 1.0  # seconds that a small file may take
MEMORY = 1 << 30  # bytes that may be taken beyond what there are


class Different(AssertionError):
    """What was read is not what others read."""


class Reader(NamedTuple):
    """seeds: good files. read: a path read. others: the same by somebody else; None if they cannot be asked. inside: a file of
    which these bytes are the inside, with lengths and checksums that are right."""

    suffix: str
    seeds: Callable[[], list[bytes]]
    read: Callable[[Path], Any]
    others: Callable[[Path, Any], Any]
    inside: Callable[[bytes], bytes]


# Comparison


def expect(a: Any, b: Any) -> None:
    """Raise Different unless two nests hold the same values, dtypes and shapes."""
    if isinstance(a, dict):
        if not isinstance(b, dict) or a.keys() != b.keys():
            raise Different(f"{a!r} and {b!r}"[:300])
        for name in a:
            expect(a[name], b[name])
    elif isinstance(a, (list, tuple)):
        if len(a) != len(b):
            raise Different(f"{a!r} and {b!r}"[:300])
        for x, y in zip(a, b, strict=True):
            expect(x, y)
    elif isinstance(a, np.ndarray):
        native = b.astype(b.dtype.newbyteorder("="))
        if (a.dtype, a.shape) != (native.dtype, native.shape) or a.tobytes() != native.tobytes():
            raise Different(f"{a!r} and {b!r}"[:300])
    elif not (a == b or (a != a and b != b)):
        raise Different(f"{a!r} and {b!r}"[:300])


# .npz


def npz_seeds() -> list[bytes]:
    found = []
    arrays = {"a": np.arange(6.0).reshape(2, 3), "b": np.array(["ab", "ß"]), "c": np.array([True, False]), "d": np.array(b"x")}
    arrays |= {"e": np.asfortranarray(np.ones((2, 2), ">i2")), "f": np.zeros((0, 3), "c8")}
    for save in (np.savez, np.savez_compressed):
        file = io.BytesIO()
        save(file, **arrays)
        found.append(file.getvalue())
        for name, array in arrays.items():
            file = io.BytesIO()
            save(file, **{name: array})
            found.append(file.getvalue())
    return found


def npz_inside(content: bytes) -> bytes:
    file = io.BytesIO()
    method = zipfile.ZIP_DEFLATED if len(content) % 2 else zipfile.ZIP_STORED
    with zipfile.ZipFile(file, "w", method) as archive:
        for i, piece in enumerate(content.split(b"\0PIECE\0")[:4]):
            archive.writestr(f"{i}.npy", piece)
    return file.getvalue()


def npy_seeds() -> list[bytes]:
    found = []
    for seed in npz_seeds()[1:7]:
        with zipfile.ZipFile(io.BytesIO(seed)) as archive:
            found += [archive.read(name) for name in archive.namelist()]
    return found


def npz_others(path: Path, _: Any) -> Any:
    with np.load(path, allow_pickle=False) as found:
        return {name: found[name] for name in found.files}


# CSV


def csv_seeds() -> list[bytes]:
    rng = np.random.default_rng(0)
    rows = [",".join(map(str, [i % 10, *rng.integers(0, 256, 5)])) for i in range(6)]
    floats = [",".join([str(i), *map(repr, rng.normal(size=3).tolist())]) for i in range(4)]
    texts = ["\n".join(rows), "label,a,b,c\n" + "\r\n".join(floats) + "\r\n", "1,2\n\n3,4\n", "1,1e5,-.5,+2.\n2,1E-400,0,1\n"]
    return [text.encode() for text in texts] + [b"\xef\xbb\xbf1,2\n3,4\n"]


def csv_others(path: Path, found: Any) -> Any:
    """By Python's csv and float."""
    text = path.read_bytes().decode("utf-8-sig", "replace")
    rows = [
        row for row in csv.reader(io.StringIO(text.replace("\r\n", "\n").replace("\r", "\n")), quoting=csv.QUOTE_NONE) if row
    ]
    rows = [row for row in rows if not ",".join(row).isspace() and ",".join(row)]
    if len(rows) == len(found[0]) + 1:  # a line of names
        rows = rows[1:]
    values = np.array([[float(field.strip()) for field in row] for row in rows])
    with np.errstate(over="ignore"):
        return values[:, 1:].astype(np.float32), values[:, 0].astype(np.int64)


# idx


def idx_seeds() -> list[bytes]:
    found = []
    for code, dtype in ((8, "u1"), (9, "i1"), (11, ">i2"), (12, ">i4"), (13, ">f4"), (14, ">f8")):
        for shape in ((3,), (2, 2, 2), ()):
            array = np.arange(math.prod(shape)).reshape(shape).astype(dtype)
            content = struct.pack(f">BBBB{len(shape)}I", 0, 0, code, len(shape), *shape) + array.tobytes()
            found += [content, gzip.compress(content)]
    return found


def idx_others(path: Path, _: Any) -> Any:
    content = path.read_bytes()
    content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    dtype = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}[content[2]]
    shape = struct.unpack_from(f">{content[3]}I", content, 4)
    return np.array(np.frombuffer(content[4 + 4 * content[3] :], dtype).reshape(shape))


# .safetensors


def safetensors_seeds() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        found = []
        arrays = {"a": np.arange(6.0).reshape(2, 3), "b": np.array([True]), "c": np.zeros((0, 2), "i2"), "d": np.array(5, "u8")}
        for part in (arrays, {}, {"a": arrays["a"]}):
            path = Path(folder) / "a.safetensors"
            storage.write(path, part, {"x": "y"})
            found.append(path.read_bytes())
        return found


def safetensors_inside(content: bytes) -> bytes:
    header, _, rest = content.partition(b"\0PIECE\0")
    return struct.pack("<Q", len(header)) + header + rest


def safetensors_others(path: Path, _: Any) -> Any:
    try:
        import safetensors.numpy
    except ImportError:
        return None
    return dict(safetensors.numpy.load_file(path))


# Checkpoints


def checkpoint_seeds() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        model = nn.Linear(2, 2)
        optimiser = optim.Adam(model.parameters())
        parts = {"model": model, "optimiser": optimiser, "schedule": optim.StepLR(optimiser, 2)}
        found = []
        for suffix in (".npz", ".safetensors"):
            path = Path(folder) / f"a{suffix}"
            train.save(path, **parts, loader=data.DataLoader(np.ones((4, 2))), extra=[1, {"a": None}], history={"loss": [1.0]})
            found.append(path.read_bytes())
        return found


def checkpoint_inside(content: bytes) -> bytes:
    """A sound file with these contents, and three arrays."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.npz"
        arrays = {"model/weight": np.ones((2, 2), np.float32), "model/bias": np.zeros(2, np.float32), "extra/a": np.arange(3)}
        storage.write(path, arrays, {"format": checkpoint.FORMAT, "contents": content.decode("latin-1")})
        return path.read_bytes()


def checkpoint_read(path: Path) -> Any:
    """Whatever is in it, into parts of a training, which are as they were if it is refused."""
    model = nn.Linear(2, 2)
    optimiser = optim.Adam(model.parameters())
    parts = {"model": model, "optimiser": optimiser, "schedule": optim.StepLR(optimiser, 2)}
    before = [str(part.state_dict()) for part in parts.values()]
    contents = checkpoint.read(path)
    try:
        train.load(path, **parts)
    except TensorgradError:
        if [str(part.state_dict()) for part in parts.values()] != before:
            raise Different("changed by a file that was refused") from None
    return contents


def checkpoint_others(path: Path, found: Any) -> Any:
    """Written and read again."""
    again = path.with_name(f"again{path.suffix}")
    try:
        checkpoint.write(again, found)
    except TensorgradError:  # names that are not written, such as "a/b"
        return None
    return checkpoint.read(again)


READERS: dict[str, Reader] = {
    "npz": Reader(".npz", npz_seeds, data.read_npz, npz_others, npz_inside),
    "csv": Reader(".csv", csv_seeds, data.read_csv, csv_others, lambda content: content),
    "idx": Reader("", idx_seeds, data.read_idx, idx_others, gzip.compress),
    "safetensors": Reader(
        ".safetensors",
        safetensors_seeds,
        storage.read_safetensors,
        safetensors_others,
        safetensors_inside,
    ),
    "checkpoint": Reader(".npz", checkpoint_seeds, checkpoint_read, checkpoint_others, checkpoint_inside),
}


def insides(name: str) -> list[bytes]:
    """Seeds for what `inside` makes files of."""
    if name == "npz":
        return npy_seeds()
    if name == "safetensors":
        found = []
        for seed in safetensors_seeds():
            length = struct.unpack("<Q", seed[:8])[0]
            found.append(seed[8 : 8 + length] + b"\0PIECE\0" + seed[8 + length :])
        return found
    if name == "checkpoint":
        tree = {
            "model": {"weight": {"$array": "model/weight"}, "bias": {"$array": "model/bias"}},
            "extra": {"$array": "extra/a"},
        }
        more = {**tree, "epoch": 1, "stop": "", "history": {"loss": [1.0]}, "callbacks": {}, "generators": []}
        return [json.dumps(nest).encode() for nest in (tree, more)]
    return READERS[name].seeds()


# Mutation

ODD = [
    b"",
    b"\0",
    b"\xff" * 8,
    b"9" * 19,
    b"-1",
    b"1e999",
    b"nan",
    b"[",
    b"{",
    b"}",
    b'"',
    b"'",
    b"\\",
    b",",
    b"\n",
    b"\r",
    b"O8",
]
ODD += [
    b"<U999999999",
    b"\0PIECE\0",
    b"\x80\3",
    b"PK\5\6",
    b"true",
    b"null",
    b"\\ud800",
    b"(,)",
    b"1_0",
    b"0x1",
    b"\xc2\xa0",
    b"V8",
]


def mutated(rng: np.random.Generator, content: bytes, seeds: list[bytes]) -> bytes:
    """A few changes of any kind."""
    found = bytearray(content)
    for _ in range(int(rng.geometric(0.4))):
        n = len(found)
        at, end = sorted(int(i) for i in rng.integers(0, n + 1, 2))
        end = min(end, at + int(rng.geometric(0.1)))
        kind = int(rng.integers(0, 8))
        if kind == 0 and n:
            found[min(at, n - 1)] ^= 1 << int(rng.integers(0, 8))
        elif kind == 1 and n:
            found[min(at, n - 1)] = int(rng.integers(0, 256))
        elif kind == 2:
            del found[at:end]
        elif kind == 3:
            found[at:at] = found[at:end]
        elif kind == 4:
            found[at:end] = ODD[int(rng.integers(0, len(ODD)))]
        elif kind == 5:
            other = seeds[int(rng.integers(0, len(seeds)))]
            start = int(rng.integers(0, len(other) + 1))
            found[at:end] = other[start : start + int(rng.geometric(0.05))]
        elif kind == 6:
            numbers = list(re.finditer(rb"\d+", bytes(found)))
            if numbers:
                one = numbers[int(rng.integers(0, len(numbers)))]
                found[one.start() : one.end()] = str(int(rng.integers(-2, 2)) + int(one[0][:18])).encode()
        elif rng.random() < 0.1:
            del found[at:]
    return bytes(found)


# Trying


class Trial:
    """Inputs for a reader one after the other; what becomes of them."""

    def __init__(self, name: str, folder: Path, out: Path | None = None) -> None:
        self.name, self.reader = name, READERS[name]
        self.path, self.out = folder / f"{name}{self.reader.suffix}", out
        self.counts: Counter[str] = Counter()
        self.slowest = 0.0
        self.failures: list[str] = []
        self.kinds: set[str] = set()

    def one(self, content: bytes) -> None:
        """Let the reader, and others, read a file of this content."""
        if self.name == "checkpoint":
            self.path = self.path.with_suffix(".npz" if content[:2] == b"PK" else ".safetensors")
        self.path.write_bytes(content)
        self.counts["inputs"] += 1
        start = time.perf_counter()
        try:
            with limited():
                found = self.reader.read(self.path)
            self.counts["read"] += 1
        except TensorgradError as error:
            self.counts["refused"] += 1
            self.counts[f"  {type(error).__name__}"] += 1
            found = None
        except BaseException as error:
            self.fail(content, f"{type(error).__name__}: {error}")
            if isinstance(error, KeyboardInterrupt):
                raise
            return
        took = time.perf_counter() - start
        self.slowest = max(self.slowest, took)
        if took > SLOWEST:
            self.fail(content, f"took {took:.1f} s")
        if found is None:
            return
        try:
            others = self.reader.others(self.path, found)
            if others is not None:
                expect(found, others)
                self.counts["the same to others"] += 1
        except Exception as error:
            self.fail(content, f"others: {type(error).__name__}: {error}")

    def fail(self, content: bytes, reason: str) -> None:
        self.counts["failed"] += 1
        self.failures.append(f"{self.name}: {reason[:200]}")
        kind = re.sub(r"\W*\d+\W*", "", self.failures[-1])
        if self.out is not None and kind not in self.kinds:
            self.kinds.add(kind)
            self.out.mkdir(parents=True, exist_ok=True)
            (self.out / f"{self.name}-{len(self.failures)}{self.reader.suffix}").write_bytes(content)
            print(self.failures[-1], flush=True)

    def __str__(self) -> str:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        told = ", ".join(f"{count:,} {what.strip()}" for what, count in self.counts.items())
        return f"{self.name}: {told}; slowest {self.slowest * 1000:.0f} ms, peak {peak} MiB"


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """More than ten seconds raise TimeoutError."""

    def late(*_: Any) -> None:
        raise TimeoutError("ten seconds are over")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(10)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def by_chance(trial: Trial, seconds: float, most: int, seed: int) -> None:
    """Changes of good files, outside and inside, with a generator of this seed."""
    rng, seeds, inner = np.random.default_rng(seed), trial.reader.seeds(), insides(trial.name)
    for content in seeds:
        trial.one(content)
    assert trial.counts["refused"] == 0, trial
    pool = list(seeds), list(inner)
    end = time.monotonic() + seconds
    while time.monotonic() < end and trial.counts["inputs"] < most:
        inside = bool(rng.integers(0, 2))
        one = mutated(rng, pool[inside][int(rng.integers(0, len(pool[inside])))], seeds)
        before = trial.counts["read"]
        try:
            content = trial.reader.inside(one) if inside else one
        except TensorgradError:
            continue
        trial.one(content)
        if trial.counts["read"] > before and len(pool[inside]) < 500:  # good ones of odd forms are changed further
            pool[inside].append(one)


def by_coverage(trial: Trial, seconds: float, seed: int) -> None:
    """With atheris; does not return."""
    import atheris

    for module in (data.npz, data.csv, data.idx, storage, checkpoint, zipfile):
        for value in list(vars(module).values()):
            if isinstance(value, types.FunctionType) and value.__module__ == module.__name__:
                atheris.instrument_func(value)
    end = time.monotonic() + seconds
    corpus = Path(tempfile.mkdtemp())
    for i, content in enumerate([*(b"\0" + c for c in trial.reader.seeds()), *(b"\1" + c for c in insides(trial.name))]):
        (corpus / str(i)).write_bytes(content)

    def one(content: bytes) -> None:
        if time.monotonic() > end:
            print(trial, flush=True)
            os._exit(bool(trial.failures))
        with contextlib.suppress(TensorgradError):
            trial.one(trial.reader.inside(content[1:]) if content[:1] == b"\1" else content[1:])

    atheris.Setup([sys.argv[0], str(corpus), f"-seed={seed + 1}", "-max_len=20000", "-verbosity=0", "-rss_limit_mb=0"], one)
    atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz_files", description=__doc__)
    parser.add_argument("--reader", choices=[*READERS, "all"], default="all")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each reader")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engine", choices=["chance", "atheris"], default="chance")
    parser.add_argument("--out", type=Path, default=Path("fuzz-files"), help="where what has failed is written")
    args = parser.parse_args()
    if args.engine == "atheris" and args.reader == "all":
        parser.error("atheris takes one reader at a time")
    soft = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() if sys.platform == "linux" else 0
    if soft and args.engine == "chance":
        resource.setrlimit(resource.RLIMIT_AS, (soft + MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for name in READERS if args.reader == "all" else [args.reader]:
            trial = Trial(name, Path(folder), args.out)
            if args.engine == "atheris":
                by_coverage(trial, args.seconds, args.seed)
            by_chance(trial, args.seconds, sys.maxsize, args.seed)
            print(trial, flush=True)
            failed += len(trial.failures)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
