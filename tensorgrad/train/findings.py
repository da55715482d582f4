"""Diagnoses from the statistics of a training, in words."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

from tensorgrad.train.samples import Layer, Sample

DEAD = SATURATED = 0.1  # fractions of units above which they are reported
RATIO_LIMIT = 1e4  # ratio between the gradients of a layer and of the others above which it is reported
FAST_UPDATE, SLOW_UPDATE = 0.1, 1e-7  # limits of the ratio of update to weight
NUMBER = re.compile(r"\d[\d.,]*(?:e[+-]?\d+)?")
SEVERAL = 3  # at least so many neighbours with the same finding are reported together


class Finding(NamedTuple):
    """A finding: a layer with its line, or a parameter, and the text."""

    subject: str
    text: str

    def __str__(self) -> str:
        return f"{self.subject}: {self.text}"


def grouped(findings: Sequence[Finding]) -> list[tuple[str, list[str]]]:
    """A line for each finding, or for several neighbours whose findings differ only in numbers, with the single lines."""
    runs: list[list[Finding]] = []
    for finding in findings:
        if runs and NUMBER.sub("", runs[-1][0].text) == NUMBER.sub("", finding.text):
            runs[-1].append(finding)
        else:
            runs.append([finding])
    lines: list[tuple[str, list[str]]] = []
    for run in runs:
        if len(run) < SEVERAL:
            lines += [(str(finding), []) for finding in run]
            continue
        numbers = [
            sorted({n.rstrip(".,") for n in slot}, key=size_of)
            for slot in zip(*(NUMBER.findall(finding.text) for finding in run), strict=True)
        ]
        ranges = iter([n[0] if len(n) == 1 else f"{n[0]} … {n[-1]}" for n in numbers])
        description = NUMBER.sub(lambda _: next(ranges), run[0].text)  # noqa: B023
        lines.append((f"{run[0].subject} … {run[-1].subject} ({len(run)}): {description}", [str(finding) for finding in run]))
    return lines


def size_of(number: str) -> float:
    return float(number.replace(",", ""))


def label_of(layer: Layer) -> str:
    return f"{layer.name} ({layer.line})" if layer.line else layer.name


def idle_units(sample: Sample) -> list[Finding]:
    findings: list[Finding] = []
    for layer in sample.layers.values():
        if layer.dead >= DEAD:
            findings.append(
                Finding(
                    label_of(layer),
                    f"{layer.dead:.0%} of its units are 0 for every sample of the probe: dead, they learn nothing",
                )
            )
        if layer.saturated >= SATURATED:
            findings.append(
                Finding(label_of(layer), f"{layer.saturated:.0%} of its units are saturated: hardly any gradient comes through")
            )
    return findings


def far_gradients(sample: Sample) -> list[Finding]:
    """Parameters whose gradients are much smaller or larger than those of the last layers, where backpropagation begins."""
    sizes = {n: w.gradient.rms for n, w in sample.weights.items() if w.gradient is not None and math.isfinite(w.gradient.rms)}
    last = next((size for size in reversed(sizes.values()) if size), 0.0)
    findings: list[Finding] = []
    for name, size in sizes.items():
        if size == 0:
            findings.append(Finding(name, "its gradient is 0 everywhere: the loss of the probe does not change with it"))
        elif size * RATIO_LIMIT < last:
            findings.append(
                Finding(name, f"its gradient is {last / size:.0e} times smaller than the last ones: it vanishes on the way")
            )
        elif size > RATIO_LIMIT * last:
            findings.append(
                Finding(name, f"its gradient is {size / last:.0e} times larger than the last ones: it explodes on the way")
            )
    return findings


def odd_updates(sample: Sample) -> list[Finding]:
    findings: list[Finding] = []
    for name, w in sample.weights.items():
        if w.ratio > FAST_UPDATE:
            findings.append(Finding(name, f"a step changes it by {w.ratio:.0%} of its size: the learning rate is high for it"))
        elif w.ratio < SLOW_UPDATE and w.gradient is not None and w.gradient.rms:
            findings.append(Finding(name, f"a step changes it by {w.ratio:.0e} of its size: it hardly moves"))
    return findings
