"""Watch: statistics of values, gradients and updates during training, and diagnoses in words."""

from __future__ import annotations

import math
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tensorgrad import ops
from tensorgrad.autograd import grad
from tensorgrad.core.backend import Array, copy, is_floating, move
from tensorgrad.core.files import as_path
from tensorgrad.core.node import Node
from tensorgrad.core.op import Op
from tensorgrad.core.state import switched
from tensorgrad.core.table import columns
from tensorgrad.core.tensor import Tensor, wrap
from tensorgrad.data import DataLoader
from tensorgrad.draw.graph import tensors_in, write_file
from tensorgrad.errors import ArgumentError
from tensorgrad.nn.trial import preserve_state
from tensorgrad.train.findings import Finding, far_gradients, grouped, idle_units, label_of, odd_updates
from tensorgrad.train.run import Callback, Run
from tensorgrad.train.samples import Layer, Sample, Spread, Weights
from tensorgrad.train.steps import cost_of
from tensorgrad.train.watched import Picture, page

SATURATED_OUTSIDE: dict[Op, tuple[float, float]] = {
    ops.tanh: (-0.99, 0.99),
    ops.sigmoid: (0.01, 0.99),
}  # beyond these values the gradient is nearly 0
MOST_SAMPLES = 64  # taken from the loader if no probe is given


class Watch(Callback):
    """Records statistics of each layer's values and gradients, and of each parameter, its gradient and its update.

    probe   (x, y): the samples to compute statistics with; by default the first of the loader, up to 64
    every   number of steps between samples of statistics; the first is taken before the first step
    share   at most this fraction of the training time is spent on samples after the first; they are taken less often if needed.
            As much time again is lost to cold caches afterwards: with 0.02 the total is under 5 %

    samples   the Samples so far; `print` shows the last one as a table, `findings()` returns diagnoses in words, `save` writes
              a page with the architecture, coloured by each measure, over time. Both combine neighbours with the same finding
              into one line

    The probe runs forward and backward in training mode, with dropout and batch statistics; then buffers and random generators
    are restored, and no `.grad` is changed: the training is bit for bit the same as without it.
    """

    def __init__(self, probe: tuple[Any, Any] | None = None, every: int = 50, share: float = 0.02) -> None:
        if probe is not None and (not isinstance(probe, (tuple, list)) or len(probe) != 2):
            raise ArgumentError(f"Watch: probe must be a pair (x, y), got {type(probe).__name__}")
        if isinstance(every, bool) or not isinstance(every, (int, np.integer)) or every < 1:
            raise ArgumentError(f"Watch: every must be a positive integer, got {every!r}")
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share <= 1:
            raise ArgumentError(f"Watch: share must be in (0, 1], got {share!r}")
        self.probe, self.every, self.share = probe, int(every), float(share)
        self.samples: list[Sample] = []
        self.picture: Picture | None = None  # of the model at the first sample
        self._step = 0
        self._pending: tuple[Sample, dict[str, Array]] | None = None  # waits for its updates until the next step
        self._spent = self._last = self._start = 0.0  # seconds: all samples, the last one, start of the training

    def on_start(self, run: Run) -> None:
        if self.probe is None and not isinstance(run.loader, DataLoader):
            raise ArgumentError("Watch: the data are not a DataLoader; pass probe=(x, y)")
        self._step = run.epoch * len(run.loader) + run.batch  # includes those before a resume
        self.samples = [sample for sample in self.samples if sample.step < self._step]
        if not self.samples:
            self.picture = None
        self._pending = None
        self.take(run)
        # the first sample loads and compiles kernels that training needs anyway
        self._spent, self._last, self._start = 0.0, 0.0, time.perf_counter()

    def on_batch_end(self, run: Run) -> None:
        self._step += 1
        if self._pending is None and self._step % self.every:
            return
        start = time.perf_counter()
        if self._pending is not None:
            sample, old_values = self._pending
            self._pending = None
            for name, p in run.model.named_parameters():
                if name in old_values and old_values[name].shape == p.shape:
                    sample.weights[name].update = Spread.of(p._data - old_values[name])
            self._spent += time.perf_counter() - start
        if self._step % self.every == 0 and self._spent + self._last <= self.share * (start + self._last - self._start):
            self.take(run)

    def take(self, run: Run) -> None:
        """Take a sample now; the changes of parameters are added after the next step."""
        start = time.perf_counter()
        sample = self.sample(run)
        self.samples.append(sample)
        self._pending = sample, {name: copy(p._data) for name, p in run.model.named_parameters() if name in sample.weights}
        self._last = time.perf_counter() - start
        self._spent += self._last

    def sample(self, run: Run) -> Sample:
        """The current statistics."""
        x, y = self.probe_on_device(run)
        parameters = {name: p for name, p in run.model.named_parameters() if p.requires_grad}
        with preserve_state(run.modules()):
            recorder = ProbeResults()
            with switched(recording=True, profile=recorder):
                prediction = run.model(x)
            cost, _, _ = cost_of(run.loss, prediction, y, None)
            results = recorder.results(prediction)
            gradients: dict[Node, Array] = {}
            for node, _ in results.values():
                node.hooks = [*(node.hooks or []), partial(store_gradient, gradients, node)]
            parameter_gradients = grad(cost, list(parameters.values()), allow_unused=True)
            computed = [t for t in tensors_in(prediction) if t.node is not None]
            if self.picture is None and computed:
                self.picture = Picture.of(computed, {name: node for name, (node, _) in results.items()}, parameters)
        sample = Sample(self._step, run.epoch + 1, float(cost.item()))
        for name, (node, out) in results.items():
            g = gradients.get(node)
            sample.layers[name] = Layer(
                name,
                node.line,
                Spread.of(out),
                None if g is None else Spread.of(g),
                dead_share(node, out),
                saturated_share(node, out),
            )
        for (name, p), g in zip(parameters.items(), parameter_gradients, strict=True):
            sample.weights[name] = Weights(name, Spread.of(p._data), None if g is None else Spread.of(g._data))
        return sample

    def probe_on_device(self, run: Run) -> tuple[Tensor, Tensor]:
        """The probe on the model's device."""
        if self.probe is None:
            size = min(MOST_SAMPLES, run.loader.batch_size)
            self.probe = tuple(np.array(move(dense(a[:size]), "cpu")) for a in run.loader.arrays[:2])  # type: ignore[assignment]
        assert self.probe is not None
        device = next((p.device for p in run.model.parameters()), "cpu")
        x, y = (wrap(move(np.asarray(a.numpy() if isinstance(a, Tensor) else a), device), None) for a in self.probe)
        x.name = "x"
        return x, y

    def findings(self) -> list[str]:
        """The diagnoses from the last sample, each with the layer or parameter and the line in the model."""
        return [str(finding) for finding in self.findings_at(len(self.samples) - 1)] if self.samples else []

    def findings_at(self, i: int) -> list[Finding]:
        """`findings` of sample i; if numbers are not finite, only that."""
        if bad := self.not_finite(i):
            return bad
        sample = self.samples[i]
        return [*idle_units(sample), *far_gradients(sample), *odd_updates(self.updated(i))]

    def save(self, path: str | Path) -> Path:
        """Write a self-contained .html file and return its path.

        It shows the architecture, coloured by a selected measure (gradients, values, fractions of zeros, dead and saturated
        units, ratios of update to parameter), with a slider over the samples, plots of each box's numbers over time, and the
        findings in words. Raises ArgumentError for another suffix or before the first sample, MissingDependencyError without
        Graphviz.
        """
        path = as_path("Watch.save", path)
        if path.suffix.lower() != ".html":
            raise ArgumentError(f"Watch.save: expected a .html file, got {path.name!r}")
        if self.picture is None:
            raise ArgumentError("Watch.save: there is no sample yet; train with this callback first")
        findings = [grouped(self.findings_at(i)) for i in range(len(self.samples))]
        return write_file(path, page(self.picture, self.samples, findings).encode())

    def updated(self, i: int) -> Sample:
        """The last sample up to number i with known updates; number i if there is none."""
        candidates = [s for s in self.samples[: i + 1] if any(w.update is not None for w in s.weights.values())]
        return candidates[-1] if candidates else self.samples[i]

    def not_finite(self, i: int) -> list[Finding]:
        """Where NaN or infinity first appeared up to sample i: in forward order, then in gradients."""
        for sample in self.samples[: i + 1]:
            when = f"at step {sample.step} (epoch {sample.epoch})"
            for name, weights in sample.weights.items():
                if weights.value.bad:
                    count = f"{weights.value.bad:,} of its numbers"
                    return [Finding(name, f"{count} are not finite {when}, the first time that any is")]
            for layer in sample.layers.values():
                if layer.value.bad:
                    return [
                        Finding(label_of(layer), f"{layer.value.bad:,} values are not finite {when}, the first in the model")
                    ]
            for layer in reversed(sample.layers.values()):
                if layer.gradient is not None and layer.gradient.bad:
                    count = f"{layer.gradient.bad:,} numbers of its gradient"
                    return [Finding(label_of(layer), f"{count} are not finite {when}, the first on the way back")]
        return []

    def __str__(self) -> str:
        if not self.samples:
            return "Watch: no sample yet"
        last, updated = self.samples[-1], self.updated(len(self.samples) - 1)
        rows = [["layer", "mean", "std", "zeros", "gradient"]]
        for layer in last.layers.values():
            gradient = "" if layer.gradient is None else f"{layer.gradient.rms:.2g}"
            rows.append([layer.name, f"{layer.value.mean:.2g}", f"{layer.value.std:.2g}", f"{layer.value.zeros:.0%}", gradient])
        parameter_rows = [["parameter", "mean", "std", "gradient", "update / weight"]]
        for name, w in last.weights.items():
            ratio = updated.weights[name].ratio if name in updated.weights else math.nan
            gradient = "" if w.gradient is None else f"{w.gradient.rms:.2g}"
            parameter_rows.append(
                [name, f"{w.value.mean:.2g}", f"{w.value.std:.2g}", gradient, "" if math.isnan(ratio) else f"{ratio:.2g}"]
            )
        head = f"step {last.step}, epoch {last.epoch}, loss {last.loss:.4g} of the probe; gradients as root mean squares"
        findings = [line for line, _ in grouped(self.findings_at(len(self.samples) - 1))] or ["nothing stands out"]
        return "\n".join([head, "", *columns(rows, "<>>>>"), "", *columns(parameter_rows, "<>>>>"), "", *findings])


class ProbeResults:
    """A Profiler that keeps the result of each op of a run instead of its time."""

    def __init__(self) -> None:
        self.all: list[tuple[Node, Array]] = []

    def ran(self, op: Any, args: Any, attrs: dict[str, Any], out: Any, seconds: float, node: Node | None) -> None:
        if node is not None and is_floating(node.dtype):
            self.all.append((node, out))

    def differentiated(self, node: Node, rules: str, seconds: float, nbytes: int) -> None:
        """Ignored: hooks collect gradients."""

    def note(self, name: str, module: str, cost: Any) -> None:
        """Ignored: costs are not needed."""

    def results(self, prediction: Any) -> dict[str, tuple[Node, Array]]:
        """By name the result of each module, and of each layer and activation called as a function, and the prediction."""
        by_name: dict[str, tuple[Node, Array]] = {}
        end = prediction.node if isinstance(prediction, Tensor) else None
        for i, (node, out) in enumerate(self.all):
            following = self.all[i + 1][0] if i + 1 < len(self.all) else None
            is_last = following is None or (following.scope, following.function) != (node.scope, node.function)
            if (node.scope and is_last) or node.op.activation or node.op.layer or node is end:
                title = node.function.name if node.function is not None else node.op.name
                name = base = f"{node.scope} {title}".strip()
                count = 1
                while name in by_name:
                    count += 1
                    name = f"{base} ({count})"
                by_name[name] = node, out
        return by_name


def store_gradient(gradients: dict[Node, Array], node: Node, g: Any) -> None:
    """A hook that stores the gradient of a node."""
    gradients[node] = g._data


def dense(part: Any) -> Any:
    """Rows of a sparse matrix as a dense array."""
    return part.toarray() if hasattr(part, "toarray") else part


def dead_share(node: Node, out: Array) -> float:
    """The fraction of an activation's units that are 0 for every sample; 0 if there are no units."""
    if not node.op.activation or len(out.shape) < 2 or not out.size:
        return 0.0
    return float((move(out, "cpu") == 0).all(axis=0).mean())


def saturated_share(node: Node, out: Array) -> float:
    """The fraction of units at the flat ends of tanh or sigmoid for 19 of 20 samples."""
    if node.op not in SATURATED_OUTSIDE or len(out.shape) < 2 or not out.size:
        return 0.0
    low, high = SATURATED_OUTSIDE[node.op]
    values = move(out, "cpu")
    return float((((values < low) | (values > high)).mean(axis=0) >= 0.95).mean())
