"""The broken rules of tests/mutations.py under torch.autograd.gradcheck: `python -m tests.benchmarks.mutants`.

Each op becomes a torch.autograd.Function that computes with the op's own `forward` and with the mutant's `backward`, on the
arguments that the audit draws; gradcheck runs with its default settings. What shows at second order only cannot be expressed
there and is left out, and so is what does not change the gradient.
"""

from __future__ import annotations

import warnings
from collections import Counter
from typing import Any

import numpy as np
import torch

from tensorgrad.op import REGISTRY, Op
from tensorgrad.ops import sum_to
from tests import mutations
from tests.mutations import CASES, Mutant


def torch_function(op: Op, args: tuple[Any, ...], attrs: dict[str, Any], inputs: list[int]) -> Any:
    """The op as a function of torch tensors, for its floating arguments; the others stay what they are."""

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *tensors: Any) -> Any:
            arrays = list(args)
            for i, t in zip(inputs, tensors, strict=True):
                arrays[i] = t.detach().numpy()
            y = np.asarray(op(*arrays, **attrs))
            ctx.arrays, ctx.y = arrays, y
            return torch.from_numpy(np.array(y))

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            rules = op.backward(g.numpy(), ctx.y, *ctx.arrays, **attrs)  # type: ignore[misc]
            grads = []
            for i in inputs:
                rule = rules[i]
                gx = np.zeros(ctx.arrays[i].shape) if rule is None else np.asarray(rule())
                gx = gx if gx.shape == ctx.arrays[i].shape else sum_to(gx, ctx.arrays[i].shape)
                grads.append(torch.from_numpy(np.array(gx)))
            return tuple(grads)

    return Function.apply


def torch_catches(mutant: Mutant) -> bool:
    op = mutant.op
    with mutant.applied():
        for case in range(CASES):
            args, attrs = op.sample(np.random.default_rng([0, case]))
            inputs = [i for i, a in enumerate(args) if a.dtype.kind == "f" and not op.is_data(i)]
            tensors = [torch.from_numpy(np.array(args[i])).requires_grad_() for i in inputs]
            try:
                if not torch.autograd.gradcheck(torch_function(op, args, attrs, inputs), tensors, raise_exception=False):
                    return True
            except Exception:
                return True
    return False


def main() -> None:
    warnings.simplefilter("ignore")  # torch warns of inputs without elements
    found: dict[str, Counter[str]] = {}
    ops = [op for op in REGISTRY.values() if op.backward is not None and not op.calls]
    for mutant in (mutant for op in ops for mutant in mutations.mutants(op)):
        if mutant.kind == "hidden from order 2":
            continue
        verdict = mutations.verdict_on(mutant)
        if verdict != "same":
            counts = found.setdefault(mutant.kind, Counter())
            counts["all"] += 1
            counts["tensorgrad"] += verdict in ("audit", "error")
            counts["torch"] += torch_catches(mutant)
    print(f"{'mutation':22} {'mutants':>8} {'tensorgrad':>11} {'torch':>6}")
    for kind, counts in [*found.items(), ("all", sum(found.values(), Counter()))]:
        print(f"{kind:22} {counts['all']:8} {counts['tensorgrad']:11} {counts['torch']:6}")


if __name__ == "__main__":
    main()
