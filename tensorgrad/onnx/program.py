"""Execution of a file's nodes, and Scan, whose nodes run once per step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

from tensorgrad import ops
from tensorgrad.errors import DataError, TensorgradError
from tensorgrad.onnx.limits import Budget
from tensorgrad.onnx.operators import OPERATORS

Step: TypeAlias = tuple[str, str, list[str], list[str], dict[str, Any]]  # label, operator, inputs, outputs, attributes


class Body(NamedTuple):
    """A subgraph: the names of its inputs and outputs, and the values known in advance."""

    inputs: list[str]
    outputs: list[str]
    steps: list[Step]
    constants: dict[str, Any]


def compute(steps: Sequence[Step], outputs: Sequence[str], values: dict[str, Any], budget: Budget) -> list[Any]:
    """Run all steps, adding to the known values; return the values of the outputs."""
    for label, kind, inputs, results, attrs in steps:
        try:
            arguments = [values[name] for name in inputs]
            budget.take(kind, arguments, attrs)
            result = scan(arguments, values, budget, **attrs) if kind == "Scan" else OPERATORS[kind](*arguments, **attrs)
        except TensorgradError as error:
            error.add_note(f"onnx.load: {kind} {label}")
            raise
        except Exception as error:  # inconsistent operators, as in a damaged file
            raise DataError(f"onnx.load: {kind} {label}: {error}") from error
        values |= dict(zip(results, result if isinstance(result, tuple) else (result,), strict=False))
    if missing := [name for name in outputs if name not in values]:
        raise DataError(f"onnx.load: no node computes the output {missing[0]}")
    return [values[name] for name in outputs]


def scan(
    arguments: Sequence[Any], outer_values: dict[str, Any], budget: Budget, *, body: Body, num_scan_inputs: int,
    scan_input_axes: Any = None, scan_output_axes: Any = None, scan_input_directions: Any = None,
    scan_output_directions: Any = None,
) -> tuple[Any, ...]:  # fmt: skip
    """The final states, and the stacked outputs of the steps. A body may read all values computed around it."""
    count = len(arguments) - num_scan_inputs
    if not 0 <= count < len(arguments) or len(body.inputs) != len(arguments) or len(body.outputs) < count:
        raise ValueError(f"{num_scan_inputs} sequences, {len(arguments)} inputs, and {len(body.inputs)} of each step")
    states, sequences = list(arguments[:count]), arguments[count:]
    axes = [a % x.ndim for a, x in zip(scan_input_axes or [0] * num_scan_inputs, sequences, strict=True)]
    backwards = scan_input_directions or [0] * num_scan_inputs
    length = sequences[0].shape[axes[0]]
    collected: list[list[Any]] = [[] for _ in body.outputs[count:]]
    for i in range(length):
        budget.step()
        entries = [
            ops.getitem(x, (*(slice(None),) * axis, length - 1 - i if is_reversed else i))
            for x, axis, is_reversed in zip(sequences, axes, backwards, strict=True)
        ]
        values = {**outer_values, **body.constants, **dict(zip(body.inputs, (*states, *entries), strict=True))}
        results = compute(body.steps, body.outputs, values, budget)
        states = results[:count]
        for output, value in zip(collected, results[count:], strict=True):
            output.append(value)
    reversals = scan_output_directions or [0] * len(collected)
    if length == 0 and collected:
        raise NotImplementedError("no steps")
    stacked = [
        ops.stack(output[::-1] if is_reversed else output, axis)
        for output, axis, is_reversed in zip(collected, scan_output_axes or [0] * len(collected), reversals, strict=True)
    ]
    return (*states, *stacked)
