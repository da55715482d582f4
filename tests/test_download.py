"""Downloads, against a server in this process that gives files whole, wrong, cut, late or not at all."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import socket
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tensorgrad import data
from tensorgrad.data import mnist
from tensorgrad.errors import DownloadError, MissingDependencyError
from tests.test_data import idx

RNG = np.random.default_rng(0)
ARRAYS = {
    "train-images-idx3-ubyte": RNG.integers(0, 256, (50, 28, 28), np.uint8),
    "train-labels-idx1-ubyte": RNG.integers(0, 10, 50).astype(np.uint8),
    "t10k-images-idx3-ubyte": RNG.integers(0, 256, (7, 28, 28), np.uint8),
    "t10k-labels-idx1-ubyte": RNG.integers(0, 10, 7).astype(np.uint8),
}
FIRST = "train-images-idx3-ubyte.gz"


class Server(ThreadingHTTPServer):
    """Gives the files under /KIND/NAME.gz in the way of that kind, and remembers what it was asked for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str] = []
        self.over = threading.Event()

    def address(self, kind: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{kind}/"

    def handle_error(self, *_: Any) -> None:
        """A client that hangs up is part of the tests."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        kind, name = self.path.strip("/").split("/")
        content = idx(ARRAYS[name.removesuffix(".gz")])
        packed = gzip.compress(content)
        if kind == "missing":
            self.send_error(404)
        elif kind == "whole":
            self.answer(packed)
        elif kind == "unpacked":  # on the way, as the header says; the client sees the content
            self.answer(packed, ("Content-Encoding", "gzip"))
        elif kind == "changed":
            self.answer(gzip.compress(content[:-1] + bytes([content[-1] ^ 1])))
        elif kind == "cut":
            self.answer(packed[:-9])
        elif kind == "page":
            self.answer(b"<!doctype html><title>Sign in to the network</title>")
        elif kind == "dies":
            self.answer(packed[: len(packed) // 2], length=len(packed))
        elif kind == "stalls":
            self.answer(packed[:99], length=len(packed))
            self.server.over.wait(10)

    def answer(self, content: bytes, *headers: tuple[str, str], length: int | None = None) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(content) if length is None else length))
        for header in headers:
            self.send_header(*header)
        self.end_headers()
        self.wfile.write(content)
        self.wfile.flush()

    def log_message(self, *_: Any) -> None:
        """Not on the tests' stderr."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.over.set()
        running.shutdown()
        thread.join()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TENSORGRAD_CACHE", str(tmp_path))
    monkeypatch.delenv("TENSORGRAD_DATA", raising=False)
    monkeypatch.setenv("NO_PROXY", "*")
    return tmp_path / "data" / "mnist"


def use(monkeypatch: pytest.MonkeyPatch, *mirrors: str) -> None:
    """Let these addresses, and the checksums of ARRAYS, be those of MNIST."""
    digests = tuple(hashlib.md5(idx(array)).hexdigest() for array in ARRAYS.values())
    monkeypatch.setattr(mnist, "MNIST", dataclasses.replace(mnist.MNIST, mirrors=mirrors, md5=digests))


def check(loaded: tuple[np.ndarray, ...]) -> None:
    for got, expected in zip(loaded, ARRAYS.values(), strict=True):
        np.testing.assert_array_equal(got, expected.reshape(got.shape))


def contents(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("kind", ["whole", "unpacked"])
def test_download_once(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    use(monkeypatch, server.address(kind))
    check(data.load_mnist())
    assert server.asked == [f"/{kind}/{name}.gz" for name in ARRAYS]
    assert contents(cache) == sorted(f"{name}.gz" for name in ARRAYS)
    check(data.load_mnist())
    check(data.load_mnist(cache))
    assert len(server.asked) == 4
    assert capsys.readouterr() == ("", "")  # no bar where there is no terminal


def test_progress_bar(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    use(monkeypatch, server.address("whole"))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    check(data.load_mnist())
    shown = capsys.readouterr().err
    assert all(f"{name}.gz:" in shown for name in ARRAYS)
    size = len(gzip.compress(idx(ARRAYS["t10k-labels-idx1-ubyte"])))
    assert f"/{size:.1f} [" in shown  # as the server says


BAD = {
    "missing": "404 Client Error",
    "changed": "not the published train-images-idx3-ubyte: the MD5 checksum of its content is",
    "cut": "a damaged gzip file: Compressed file ended before the end-of-stream marker was reached",
    "page": "not an IDX file: it starts with b'<!do'",
    "dies": "IncompleteRead",
    "stalls": "Read timed out",
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_mirror(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Nothing of it is left, and the next mirror is asked."""
    if kind == "stalls":
        monkeypatch.setattr("tensorgrad.data.download.TIMEOUT", 0.3)
    use(monkeypatch, server.address(kind))
    with pytest.raises(DownloadError, match=BAD[kind]) as raised:
        data.load_mnist()
    assert f"{server.address(kind)}{FIRST}: " in str(raised.value)
    assert "download-" not in str(raised.value)
    assert contents(cache) == []
    use(monkeypatch, server.address(kind), server.address("whole"))
    check(data.load_mnist())
    assert contents(cache) == sorted(f"{name}.gz" for name in ARRAYS)


def test_offline(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{free.getsockname()[1]}/"

    def resolve(host: str, *args: Any, **kwargs: Any) -> Any:
        if host.endswith(".invalid"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return getaddrinfo(host, *args, **kwargs)

    getaddrinfo = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    use(monkeypatch, closed, "http://no-such-host.invalid/")
    with pytest.raises(DownloadError) as raised:
        data.load_mnist()
    lines = str(raised.value).splitlines()
    assert lines[0] == f"{FIRST}: no mirror could provide it."
    assert lines[1].startswith(f"  {closed}{FIRST}: ")
    assert lines[2].startswith(f"  http://no-such-host.invalid/{FIRST}: ")
    assert lines[3] == (
        f"  MNIST without the network: put {', '.join(ARRAYS)}, plain or .gz, into a folder and name it in the call, "
        f"or put them into {cache}"
    )
    assert isinstance(raised.value, OSError)
    # which is enough
    cache.mkdir(exist_ok=True)
    for i, (name, array) in enumerate(ARRAYS.items()):
        (cache / (f"{name}.gz" if i % 2 else name)).write_bytes(gzip.compress(idx(array)) if i % 2 else idx(array))
    check(data.load_mnist())


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_damaged_cache(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    use(monkeypatch, server.address("whole"))
    cache.mkdir(parents=True)
    (cache / f"t10k-labels-idx1-ubyte{suffix}").write_bytes(b"damaged")
    check(data.load_mnist())
    assert contents(cache) == sorted(f"{name}.gz" for name in ARRAYS)


def test_interrupted(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        assert contents(cache)  # it is here, under another name
        assert not (cache / FIRST).exists()
        raise KeyboardInterrupt

    use(monkeypatch, server.address("whole"))
    monkeypatch.setattr(mnist, "_read", interrupted)
    with pytest.raises(KeyboardInterrupt):
        data.load_mnist()
    assert contents(cache) == []


def test_in_several_threads(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pooch", reason="needs pooch: pip install pooch")
    use(monkeypatch, server.address("whole"))
    loaded: list[tuple[np.ndarray, ...]] = []
    threads = [threading.Thread(target=lambda: loaded.append(data.load_mnist())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loaded) == 4
    for arrays in loaded:
        check(arrays)
    assert contents(cache) == sorted(f"{name}.gz" for name in ARRAYS)


@pytest.mark.parametrize("package", ["pooch", "tqdm.auto"])
def test_without_pooch(cache: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=r"pip install pooch tqdm. KMNIST without the network: put"):
        data.load_kmnist()


def test_checksums_and_mirrors() -> None:
    """What is published: four checksums each, no two the same; folders by their addresses."""
    sources = (mnist.MNIST, mnist.FASHION_MNIST, mnist.KMNIST)
    digests = [digest for source in sources for digest in source.md5]
    assert len(set(digests)) == 12
    assert all(len(bytes.fromhex(digest)) == 16 for digest in digests)
    assert all(mirror.startswith("http") and mirror.endswith("/") for source in sources for mirror in source.mirrors)
