"""Losses and layers as textbooks have them: what to compute, and the gradient that a lecturer writes on the board."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

import tensorgrad
from tensorgrad import Tensor, draw
from tensorgrad.nn import functional as F

SIZES = ((6, 3, 4), (5, 4, 2))  # samples, features, classes; no two alike in one of them


class Setting:
    """Tensors by name, drawn at random when they are first asked for."""

    def __init__(self, seed: int, sizes: tuple[int, int, int]) -> None:
        self.rng = np.random.default_rng(seed)
        self.n, self.d, self.k = sizes

    def data(self, name: str, *shape: int) -> Tensor:
        return Tensor(self.rng.normal(size=shape), name=name)

    def parameter(self, name: str, *shape: int) -> Tensor:
        return Tensor(self.rng.normal(size=shape), True, name=name)

    def binary(self, *shape: int) -> Tensor:
        return Tensor(self.rng.integers(0, 2, shape).astype(float), name="t")

    def labels(self) -> np.ndarray:
        return self.rng.integers(0, self.k, self.n)


def linear(s: Setting) -> tuple[Tensor, Tensor, Tensor]:
    return s.data("X", s.n, s.d), s.parameter("w", s.d, 1), s.data("y", s.n, 1)


def linear_regression(s: Setting) -> tuple[Tensor, Tensor]:
    X, w, y = linear(s)
    return ((X @ w - y) ** 2).mean(), w


def mean_squared_error(s: Setting) -> tuple[Tensor, Tensor]:
    X, w, y = linear(s)
    return F.mse_loss(X @ w, y), w


def half_squares(s: Setting) -> tuple[Tensor, Tensor]:
    X, w, y = linear(s)
    return ((X @ w - y) ** 2).sum() / 2, w


def ridge(s: Setting) -> tuple[Tensor, Tensor]:
    X, w, y = linear(s)
    return ((X @ w - y) ** 2).mean() + 0.01 * (w**2).sum(), w


def lasso(s: Setting) -> tuple[Tensor, Tensor]:
    X, w, y = linear(s)
    return ((X @ w - y) ** 2).mean() + 0.1 * w.abs().sum(), w


def logistic_regression(s: Setting) -> tuple[Tensor, Tensor]:
    X, w, _ = linear(s)
    t = s.binary(s.n, 1)
    p = (X @ w).sigmoid()
    return -(t * p.log() + (1 - t) * (1 - p).log()).mean(), w


def logistic_regression_by_name(s: Setting) -> tuple[Tensor, Tensor]:
    X, w, _ = linear(s)
    return F.binary_cross_entropy_with_logits(X @ w, s.binary(s.n, 1)), w


def softmax_regression(s: Setting) -> tuple[Tensor, Tensor]:
    X, W = s.data("X", s.n, s.d), s.parameter("W", s.d, s.k)
    return F.cross_entropy(X @ W, s.labels()), W


def softmax_regression_spelled(s: Setting) -> tuple[Tensor, Tensor]:
    X, W = s.data("X", s.n, s.d), s.parameter("W", s.d, s.k)
    Y = Tensor(np.eye(s.k)[s.labels()], name="Y")
    return -(Y * (X @ W).softmax().log()).sum(axis=1).mean(), W


def softmax_regression_with_decay(s: Setting) -> tuple[Tensor, Tensor]:
    X, W = s.data("X", s.n, s.d), s.parameter("W", s.d, s.k)
    return F.cross_entropy(X @ W, s.labels()) + 0.1 * (W**2).sum(), W


def bias(s: Setting) -> tuple[Tensor, Tensor]:
    X, W, b = s.data("X", s.n, s.d), s.parameter("W", s.d, s.k), s.parameter("b", s.k)
    return F.cross_entropy(X @ W + b, s.labels()), b


def two_layers(s: Setting) -> tuple[Tensor, Tensor]:
    W1, b1, W2, b2 = (s.parameter(n, *shape) for n, shape in (("W1", (s.d, 7)), ("b1", (7,)), ("W2", (7, s.k)), ("b2", (s.k,))))
    return F.cross_entropy((s.data("x", s.n, s.d) @ W1 + b1).relu() @ W2 + b2, s.labels()), W1


def hinge(s: Setting) -> tuple[Tensor, Tensor]:
    X, w, y = linear(s)
    return (1 - y * (X @ w)).relu().mean(), w


def huber(s: Setting) -> tuple[Tensor, Tensor]:
    u = s.parameter("u", s.n)
    return F.huber_loss(u, s.data("t", s.n)), u


def absolute(s: Setting) -> tuple[Tensor, Tensor]:
    u = s.parameter("u", s.n)
    return F.l1_loss(u, s.data("t", s.n)), u


def norm(s: Setting) -> tuple[Tensor, Tensor]:
    u = s.parameter("u", s.n)
    return (u**2).sum().sqrt(), u


def log_sum_exp(s: Setting) -> tuple[Tensor, Tensor]:
    u = s.parameter("u", s.n)
    return tensorgrad.logsumexp(u), u


def quadratic_form(s: Setting) -> tuple[Tensor, Tensor]:
    x, A = s.parameter("x", s.n, 1), s.data("A", s.n, s.n)
    return (x.T @ A @ x).sum(), x


def of_one(f: Callable[[Tensor], Tensor]) -> Callable[[Setting], tuple[Tensor, Tensor]]:
    def make(s: Setting) -> tuple[Tensor, Tensor]:
        u = s.parameter("u", s.n)
        return f(u).sum(), u

    return make


def weighted(f: Callable[[Tensor], Tensor]) -> Callable[[Setting], tuple[Tensor, Tensor]]:
    def make(s: Setting) -> tuple[Tensor, Tensor]:
        x = s.parameter("x", s.n, s.d)
        return (s.data("G", s.n, s.d) * f(x)).sum(), x

    return make


def by_hand(x: Tensor) -> Tensor:
    return (x - x.mean(axis=1, keepdims=True)) / (x.var(axis=1, keepdims=True) + 1e-5).sqrt()


def attention(which: int) -> Callable[[Setting], tuple[Tensor, Tensor]]:
    def make(s: Setting) -> tuple[Tensor, Tensor]:
        qkv = [s.parameter(name, s.n, s.d) for name in "QKV"]
        q, k, v = qkv
        return (s.data("G", s.n, s.d) * ((q @ k.T * 0.5).softmax(axis=-1) @ v)).sum(), qkv[which]

    return make


# the loss, and what it is to be derived by
CASES: dict[str, Callable[[Setting], tuple[Tensor, Tensor]]] = {
    "linear regression": linear_regression,
    "mean squared error": mean_squared_error,
    "half the squares": half_squares,
    "ridge regression": ridge,
    "lasso": lasso,
    "logistic regression": logistic_regression,
    "logistic regression by name": logistic_regression_by_name,
    "softmax regression": softmax_regression,
    "softmax regression, spelled": softmax_regression_spelled,
    "softmax regression with weight decay": softmax_regression_with_decay,
    "a bias": bias,
    "two layers": two_layers,
    "support vector machine": hinge,
    "Huber loss": huber,
    "absolute error": absolute,
    "norm": norm,
    "log sum exp": log_sum_exp,
    "quadratic form": quadratic_form,
    "logistic function": of_one(lambda u: 1 / (1 + (-u).exp())),
    "softplus": of_one(lambda u: (1 + u.exp()).log()),
    "Gauss": of_one(lambda u: (-(u**2) / 2).exp()),
    "tanh": of_one(lambda u: u.tanh()),
    "maximum": of_one(lambda u: u.max()),
    "gelu": of_one(lambda u: tensorgrad.gelu(u)),
    "silu": of_one(lambda u: tensorgrad.silu(u)),
    "softmax": weighted(lambda x: x.softmax(axis=-1)),
    "variance": of_one(lambda u: u.var()),
    "standard deviation": of_one(lambda u: u.std()),
    "layer norm": weighted(lambda x: F.layer_norm(x, x.shape[1:])),
    "layer norm by hand": weighted(by_hand),
    "batch norm": weighted(lambda x: F.batch_norm(x, training=True)),
    "rms norm": weighted(lambda x: F.rms_norm(x, x.shape[1:], eps=0.01)),
    "attention by queries": attention(0),
    "attention by keys": attention(1),
    "attention by values": attention(2),
}
BOARD = Path(__file__).parent / "golden" / "textbook.txt"  # what a lecturer writes, as text and as LaTeX


def written(title: str, sizes: tuple[int, int, int] = SIZES[0]) -> str:
    """The whole derivation as text and as LaTeX."""
    found = draw.derive(*CASES[title](Setting(0, sizes)))
    return f"{found}\n\n{found.latex}\n"


def board() -> dict[str, str]:
    """Title to derivation, as they stand in the file."""
    return dict(part.split("\n\n", 1) for part in BOARD.read_text().split("# ")[1:])


if __name__ == "__main__":  # to be read before it is believed
    BOARD.write_text("\n".join(f"# {title}\n\n{written(title)}" for title in CASES))
