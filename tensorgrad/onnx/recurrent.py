"""ONNX's LSTM, GRU and RNN implemented with tensorgrad's ops, for `load`.

Weights are (directions, gates h, k), biases (directions, 2 gates h): those of the input, then those of the state.
Results are the states of all steps (t, directions, n, h), and the final ones of each direction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tensorgrad import ops
from tensorgrad.onnx.operators import operator

FORWARD, REVERSE = slice(None), slice(None, None, -1)
DIRECTIONS = {"forward": (FORWARD,), "reverse": (REVERSE,), "bidirectional": (FORWARD, REVERSE)}
# The positions of our gates among those of ONNX, which are i, o, f, c and z, r, h
LSTM_GATES, GRU_GATES = (0, 2, 3, 1), (1, 0, 2)


def ordered(a: Any, gates: Sequence[int], h: int) -> Any:
    """The gates along the first axis, reordered."""
    parts = [ops.getitem(a, slice(g * h, (g + 1) * h)) for g in gates]
    return parts[0] if len(parts) == 1 else ops.concatenate(parts, 0)


def every_direction(
    x: Any, w: Any, r: Any, b: Any, states: Sequence[Any], gates: Sequence[int], direction: str, hidden_size: int | None,
    layout: int, step: Callable[..., tuple[Any, ...]],
) -> tuple[Any, ...]:  # fmt: skip
    """The results of an operator. step: a function of the input products (t, n, gates h), the states (n, h), U and its biases,
    which returns the states of all steps, including the initial ones."""
    if layout:
        x, states = ops.swapaxes(x, 0, 1), [s if s is None else ops.swapaxes(s, 0, 1) for s in states]
    h = r.shape[2] if hidden_size is None else hidden_size
    n = x.shape[1]
    by_direction = []
    for d, order in enumerate(DIRECTIONS[direction]):
        weight, u = (ops.swapaxes(ordered(ops.getitem(v, d), gates, h), 0, 1) for v in (w, r))
        biases = np.zeros(2 * len(gates) * h, x.dtype) if b is None else ops.getitem(b, d)
        bias_x, bias_h = (
            ordered(ops.getitem(biases, slice(i * len(gates) * h, (i + 1) * len(gates) * h)), gates, h) for i in range(2)
        )
        first = [np.zeros((n, h), x.dtype) if s is None else ops.getitem(s, d) for s in states]
        z = ops.matmul(ops.getitem(x, order), weight) + bias_x
        all_states = step(z, first, u, bias_h)
        steps = ops.getitem(ops.getitem(all_states[0], slice(1, None)), order)
        by_direction.append((steps, *[ops.getitem(s, -1) for s in all_states]))
    results = tuple(ops.stack(list(parts), 1 if i == 0 else 0) for i, parts in enumerate(zip(*by_direction, strict=True)))
    if layout:
        results = (ops.transpose(results[0], (2, 0, 1, 3)), *[ops.swapaxes(s, 0, 1) for s in results[1:]])
    return results


def refuse(lengths: Any, attrs: dict[str, Any], *defaults: str) -> None:
    """Raise NotImplementedError for features that PyTorch's exporters do not write."""
    activations = [a.lower() for a in attrs.pop("activations", None) or ()]
    if lengths is not None:
        raise NotImplementedError("sequence_lens")
    if any(a != defaults[i % len(defaults)] for i, a in enumerate(activations)):
        raise NotImplementedError(f"activations {', '.join(activations)}")
    attrs.pop("input_forget", 0)
    if attrs:
        raise NotImplementedError(", ".join(attrs))


@operator("LSTM")
def lstm(
    x: Any, w: Any, r: Any, b: Any = None, lengths: Any = None, h0: Any = None, c0: Any = None, peepholes: Any = None, *,
    direction: str = "forward", hidden_size: int | None = None, layout: int = 0, input_forget: int = 0, **attrs: Any,
) -> Any:  # fmt: skip
    refuse(lengths, attrs, "sigmoid", "tanh", "tanh")
    if input_forget or peepholes is not None:
        raise NotImplementedError("input_forget=1, or peepholes")

    def step(z: Any, first: list[Any], u: Any, c: Any) -> tuple[Any, ...]:
        states = ops.lstm(z + c, first[0], first[1], u)
        return ops.getitem(states, 0), ops.getitem(states, 1)

    return every_direction(x, w, r, b, [h0, c0], LSTM_GATES, direction, hidden_size, layout, step)


@operator("GRU")
def gru(
    x: Any, w: Any, r: Any, b: Any = None, lengths: Any = None, h0: Any = None, *,
    direction: str = "forward", hidden_size: int | None = None, layout: int = 0, linear_before_reset: int = 0, **attrs: Any,
) -> Any:  # fmt: skip
    refuse(lengths, attrs, "sigmoid", "tanh")
    if not linear_before_reset:
        raise NotImplementedError("linear_before_reset=0, a GRU whose reset gate comes before the product")

    def step(z: Any, first: list[Any], u: Any, c: Any) -> tuple[Any, ...]:
        h = u.shape[0]
        gate_bias = ops.concatenate([ops.getitem(c, slice(0, 2 * h)), np.zeros(h, z.dtype)], 0)
        return (ops.gru(z + gate_bias, first[0], u, ops.getitem(c, slice(2 * h, None))),)

    return every_direction(x, w, r, b, [h0], GRU_GATES, direction, hidden_size, layout, step)


@operator("RNN")
def rnn(
    x: Any, w: Any, r: Any, b: Any = None, lengths: Any = None, h0: Any = None, *,
    direction: str = "forward", hidden_size: int | None = None, layout: int = 0, activations: Any = None, **attrs: Any,
) -> Any:  # fmt: skip
    kinds = {a.lower() for a in activations or ("tanh",)}
    if len(kinds) > 1 or not kinds <= {"tanh", "relu"}:
        raise NotImplementedError(f"activations {', '.join(sorted(kinds))}")
    refuse(lengths, attrs)
    (activation,) = kinds

    def step(z: Any, first: list[Any], u: Any, c: Any) -> tuple[Any, ...]:
        return (ops.rnn(z + c, first[0], u, activation),)

    return every_direction(x, w, r, b, [h0], (0,), direction, hidden_size, layout, step)
