"""The same functions, wrong and right, through the gradient checks of PyTorch, JAX and autograd: `python -m tests.rates
--peers`.

Only what can be written in the words of all four, so a part of the corpus, written once more: functions of a small
vocabulary, and an identity whose rule one can choose. Each check is called as its documentation has it, with its own
tolerances, in reverse mode at order 1, in float64; what raises an error counts as refused. What is not installed is left
out. For a table to read; nothing depends on it.
"""

from __future__ import annotations

import importlib.util
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tests.rates.shared import CASES, Shared, fill

Rule = Callable[[Any, Any, Any], Any]  # (xp, g, x) -> the gradient of an identity


class Words:
    """The vocabulary: what NumPy has under the same name, and what the packages differ in."""

    xp: Any
    array: Callable[[np.ndarray], Any]

    def identity(self, rule: Rule) -> Callable[[Any], Any]:
        """y = x, with rule(xp, g, x) for its gradient."""
        raise NotImplementedError

    def hidden(self, x: Any) -> Any:
        raise NotImplementedError

    def scaled(self, x: Any, f: Any) -> Any:
        """The value of x with f times its gradient."""
        return self.identity(lambda xp, g, x: g * (f if isinstance(f, float) else self.array(f)))(x)

    def softmax(self, x: Any) -> Any:
        raise NotImplementedError

    def relu(self, x: Any) -> Any:
        raise NotImplementedError


class Ours(Words):
    def __init__(self, mode: str) -> None:
        import tensorgrad
        from tensorgrad import ops

        self.mode, self.xp, self.array, self.tensor = mode, ops, np.asarray, tensorgrad.Tensor
        self.inv, self.det, self.relu, self.softmax = ops.inv, ops.det, ops.relu, ops.softmax
        self.solve, self.norm = ops.solve, ops.norm
        self.max_of = lambda x: x.max(1)
        self.std = lambda x: x.std()

    def identity(self, rule: Rule) -> Callable[[Any], Any]:
        from tests.rates import faults

        part = lambda g, y, x: rule(self.xp, g, x)  # noqa: E731
        return faults.rule(lambda xp, x: x * 1.0, part, part)

    def hidden(self, x: Any) -> Any:
        return x.detach()

    def check(self, fn: Any, inputs: Sequence[np.ndarray], seed: int) -> bool:
        from tensorgrad.testing import gradcheck

        return bool(gradcheck(fn, tuple(inputs), mode=self.mode, seed=seed, raises=False))


class Torch(Words):
    def __init__(self, fast: bool) -> None:
        import torch

        self.torch, self.fast, self.xp = torch, fast, torch
        self.array = torch.as_tensor
        self.inv, self.det, self.solve = torch.linalg.inv, torch.linalg.det, torch.linalg.solve
        self.relu, self.norm = torch.relu, torch.linalg.norm
        self.softmax = lambda x: torch.softmax(x, -1)
        self.max_of = lambda x: x.max(1).values
        self.std = lambda x: x.std(correction=0)

    def identity(self, rule: Rule) -> Callable[[Any], Any]:
        class Identity(self.torch.autograd.Function):  # type: ignore[misc, name-defined]
            @staticmethod
            def forward(ctx: Any, x: Any) -> Any:
                ctx.save_for_backward(x)
                return x.clone()

            @staticmethod
            def backward(ctx: Any, g: Any) -> Any:
                return rule(self.torch, g, ctx.saved_tensors[0])

        return Identity.apply

    def hidden(self, x: Any) -> Any:
        return x.detach()

    def check(self, fn: Any, inputs: Sequence[np.ndarray], seed: int) -> bool:
        self.torch.manual_seed(seed)
        xs = tuple(self.torch.tensor(a, requires_grad=True) for a in inputs)
        return bool(self.torch.autograd.gradcheck(fn, xs, fast_mode=self.fast, raise_exception=False))


class Jax(Words):
    def __init__(self) -> None:
        import jax

        jax.config.update("jax_enable_x64", True)
        import jax.numpy as jnp

        self.jax, self.xp, self.array = jax, jnp, jnp.asarray
        self.inv, self.det, self.norm, self.relu = jnp.linalg.inv, jnp.linalg.det, jnp.linalg.norm, jax.nn.relu
        self.solve = jnp.linalg.solve
        self.softmax = jax.nn.softmax
        self.max_of = lambda x: x.max(1)
        self.std = lambda x: x.std()

    def identity(self, rule: Rule) -> Callable[[Any], Any]:
        identity = self.jax.custom_vjp(lambda x: x * 1.0)
        identity.defvjp(lambda x: (x * 1.0, x), lambda x, g: (rule(self.xp, g, x),))
        return identity

    def hidden(self, x: Any) -> Any:
        return self.jax.lax.stop_gradient(x)

    def check(self, fn: Any, inputs: Sequence[np.ndarray], seed: int) -> bool:
        from jax.test_util import check_grads

        np.random.seed(seed)  # noqa: NPY002
        check_grads(fn, tuple(self.xp.asarray(a) for a in inputs), order=1, modes=["rev"])
        return True


class Autograd(Words):
    def __init__(self) -> None:
        import autograd.numpy as anp
        from autograd import extend, tracer

        self.extend, self.tracer, self.xp, self.array = extend, tracer, anp, np.asarray
        self.inv, self.det, self.norm, self.solve = anp.linalg.inv, anp.linalg.det, anp.linalg.norm, anp.linalg.solve
        self.max_of = lambda x: anp.max(x, axis=1)
        self.std = lambda x: anp.std(x)

    def relu(self, x: Any) -> Any:
        return self.xp.maximum(x, 0)

    def softmax(self, x: Any) -> Any:
        e = self.xp.exp(x - self.xp.max(x, axis=-1, keepdims=True))
        return e / self.xp.sum(e, axis=-1, keepdims=True)

    def identity(self, rule: Rule) -> Callable[[Any], Any]:
        identity = self.extend.primitive(lambda x: x * 1.0)
        self.extend.defvjp(identity, lambda y, x: lambda g: rule(self.xp, g, x))
        return identity

    def hidden(self, x: Any) -> Any:
        return self.tracer.getval(x)

    def check(self, fn: Any, inputs: Sequence[np.ndarray], seed: int) -> bool:
        from autograd.test_util import check_grads

        np.random.seed(seed)  # noqa: NPY002
        check_grads(fn, modes=["rev"], order=1)(*inputs)
        return True


def checkers() -> dict[str, Callable[[], Any]]:
    found: dict[str, Callable[[], Any]] = {
        "tensorgrad, full": lambda: Ours("full"),
        "tensorgrad, directional": lambda: Ours("directional"),
    }
    if importlib.util.find_spec("torch"):
        found |= {"PyTorch": lambda: Torch(False), "PyTorch, fast_mode": lambda: Torch(True)}
    if importlib.util.find_spec("jax"):
        found["JAX"] = Jax
    if importlib.util.find_spec("autograd"):
        found["autograd"] = Autograd
    return found


def passes(words: Any, shared: Shared, seed: int) -> bool:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            return bool(words.check(lambda *xs: shared.fn(words, *xs), shared.inputs(seed), 7919 * seed + 1))
        except Exception:
            return False


def main(seeds: int) -> None:
    fill()
    kinds = list(dict.fromkeys((c.wrong, c.kind) for c in CASES))
    counts: dict[str, dict[tuple[bool, str], list[int]]] = {}
    for name, make in checkers().items():
        words, start = make(), time.perf_counter()
        counts[name] = {key: [0, 0] for key in kinds}
        ever: dict[bool, set[str]] = {True: set(), False: set()}
        for shared in CASES:
            for seed in range(seeds):
                bad = passes(words, shared, seed) == shared.wrong
                count = counts[name][shared.wrong, shared.kind]
                count[0] += bad
                count[1] += 1
                if bad:
                    ever[shared.wrong].add(f"{shared.kind}: {shared.name}")
        said = [
            f"{label} {sum(n for (w, _), (n, _) in counts[name].items() if w == wrong)} of "
            f"{sum(m for (w, _), (_, m) in counts[name].items() if w == wrong)} runs ({len(ever[wrong])} of "
            f"{sum(c.wrong == wrong for c in CASES)} functions)"
            for wrong, label in ((True, "wrong, passed:"), (False, "right, refused:"))
        ]
        print(f"{name:26} {said[0]:54} {said[1]:54} {time.perf_counter() - start:6.0f} s", flush=True)
    print(f"\n{'kind':40}", *[f"{name:>24}" for name in counts])
    for wrong, kind in kinds:
        row = [f"{found[wrong, kind][0]} of {found[wrong, kind][1]}" for found in counts.values()]
        print(f"{('wrong: ' if wrong else 'right: ') + kind:40}", *[f"{cell:>24}" for cell in row])


if __name__ == "__main__":
    main(40)
