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


def compute(steps: Sequence[Step], outputs: Sequence[str], known: dict[str, Any], budget: Budget) -> list[Any]:
    """Run all steps, adding to the known values; return the values of the outputs."""
    for label, kind, inputs, results, attrs in steps:
        try:
            given = [known[name] for name in inputs]
            budget.take(kind, given, attrs)
            found = scan(given, known, budget, **attrs) if kind == "Scan" else OPERATORS[kind](*given, **attrs)
        except TensorgradError as error:
            error.add_note(f"onnx.load: {kind} {label}")
            raise
        except Exception as error:  # inconsistent operators, as in a damaged file
            raise DataError(f"onnx.load: {kind} {label}: {error}") from error
        known |= dict(zip(results, found if isinstance(found, tuple) else (found,), strict=False))
    if missing := [name for name in outputs if name not in known]:
        raise DataError(f"onnx.load: no node computes the output {missing[0]}")
    return [known[name] for name in outputs]


def scan(
    given: Sequence[Any], known: dict[str, Any], budget: Budget, *, body: Body, num_scan_inputs: int,
    scan_input_axes: Any = None, scan_output_axes: Any = None, scan_input_directions: Any = None,
    scan_output_directions: Any = None,
) -> tuple[Any, ...]:  # fmt: skip
    """The final states, and the stacked outputs of the steps. A body may read all values computed around it."""
    count = len(given) - num_scan_inputs
    if not 0 <= count < len(given) or len(body.inputs) != len(given) or len(body.outputs) < count:
        raise ValueError(f"{num_scan_inputs} sequences, {len(given)} inputs, and {len(body.inputs)} of each step")
    states, sequences = list(given[:count]), given[count:]
    axes = [a % x.ndim for a, x in zip(scan_input_axes or [0] * num_scan_inputs, sequences, strict=True)]
    backwards = scan_input_directions or [0] * num_scan_inputs
    length = sequences[0].shape[axes[0]]
    collected: list[list[Any]] = [[] for _ in body.outputs[count:]]
    for i in range(length):
        budget.step()
        entries = [
            ops.getitem(x, (*(slice(None),) * axis, length - 1 - i if turned else i))
            for x, axis, turned in zip(sequences, axes, backwards, strict=True)
        ]
        inside = {**known, **body.constants, **dict(zip(body.inputs, (*states, *entries), strict=True))}
        results = compute(body.steps, body.outputs, inside, budget)
        states = results[:count]
        for found, value in zip(collected, results[count:], strict=True):
            found.append(value)
    turns = scan_output_directions or [0] * len(collected)
    if length == 0 and collected:
        raise NotImplementedError("no steps")
    every = [
        ops.stack(found[::-1] if turned else found, axis)
        for found, axis, turned in zip(collected, scan_output_axes or [0] * len(collected), turns, strict=True)
    ]
    return (*states, *every)
