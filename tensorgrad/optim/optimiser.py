"""The base class of optimisers: eager and recorded steps, kernels, state."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, ClassVar

import numpy as np

from tensorgrad import ops
from tensorgrad.core import writes
from tensorgrad.core.backend import Array, namespace, on
from tensorgrad.core.backend import copy as copied
from tensorgrad.core.form import ANYTHING, COUNT, FLOAT_ARRAY, Each, problems
from tensorgrad.core.location import is_own, warn
from tensorgrad.core.op import Value
from tensorgrad.core.ranks import ranks
from tensorgrad.core.state import Tracer, state, switched
from tensorgrad.core.tensor import Tensor, wrap
from tensorgrad.errors import ArgumentError, ShapeError
from tensorgrad.kernels import thresholds
from tensorgrad.kernels.build import ChainKernel
from tensorgrad.kernels.chain import Chain, Operand
from tensorgrad.kernels.cuda.launch import CudaChain
from tensorgrad.ops.assign import assign
from tensorgrad.ops.index import AT, gather, sum_named
from tensorgrad.optim.agreement import agree, joined
from tensorgrad.optim.block import Block, Kernel
from tensorgrad.optim.group import ParamGroup
from tensorgrad.optim.parameters import Parameters

# The state of a weight without gradients (a pixel that is always 0, a dead unit) decays to subnormal numbers, with which a
# processor is several times slower, and so does the weight itself under an L2 penalty: with momentum an epoch of digits took
# twice as long after 16 epochs, with Adam and a penalty one of MNIST 1.3 times as long after 10. So every FLUSH steps numbers
# that small are set to 0.
FLUSH = 32


class Optimiser(Parameters):
    """Base of the optimisers. A subclass names its per-parameter arrays in `slots` and defines `numbers` and `update`.

    params     leaf Tensors that require a gradient: a list, one Tensor, a Module; or a list of groups, dicts with "params" and
               the settings that differ from the arguments: [{"params": weights, "weight_decay": 0.01}, {"params": biases}]
    lr         learning rate
    maximize   ascend instead of descend: gradients are negated
    settings   the other numbers and options of `update`; part of the state. Numbers must be at least 0, unless `limits` says
               otherwise

    param_groups   the groups (one if none were given), dicts whose "lr" and settings can be changed between steps
    lr             the learning rate of all groups: setting it sets each; reading it is an error if groups differ
    settings       the settings of all groups, likewise: `optimiser.settings["weight_decay"] = 0`
    steps          number of steps
    late           for each parameter, the number of steps without a gradient. Formulas such as Adam's use the parameter's own
                   count: t = steps - late is 1 at its first step with a gradient

    The parameters of a group with the same dtype and device are moved into one flat array, of which `data` becomes a view, so
    that one kernel updates them all, in place. Parameters without a gradient are skipped. If a model is moved to another
    device, the state follows at the next step.

    For float16 parameters state and computation are float32; the result is rounded once.

    Every 32 steps parameters closer to 0 than 8e-31 (float64: 2e-300) are set to 0, and so are state values this small that are
    only added to larger ones (`bounds`), because subnormal numbers are slow. Divisors are not changed.

    copy.copy shares the parameters and copies the state; copy.deepcopy and pickle copy both.
    """

    state_form: ClassVar[Mapping[str, Any]] = {
        "steps": COUNT,
        "late": [COUNT],
        "groups": [Each(ANYTHING, {"params": [COUNT]})],
        "state": [Each(FLOAT_ARRAY)],
    }  # the expected structure of a state_dict

    # Subclass interface

    def numbers(self, group: ParamGroup, t: int) -> dict[str, float]:
        """The keyword arguments of `update`, at step t = 1, 2, ... of a parameter."""
        raise TypeError(f"{type(self).__name__} does not define numbers()")

    def update(self, group: ParamGroup, p: Value, g: Value, *state: Value, **numbers: Value) -> Sequence[Value]:
        """Return the new parameter and state; elementwise, with operators and NumPy functions."""
        raise TypeError(f"{type(self).__name__} does not define update()")

    def bounds(self, group: ParamGroup, tiny: float) -> dict[str, float]:
        """Slots that may be flushed, with bounds: absolute values below the bound must be negligible. `tiny` is the smallest
        normal number of the dtype. By default there are none.
        """
        return {}

    # Steps

    def step(self) -> None:
        """Update every parameter that has a gradient. Warns once about parameters that the loss does not depend on."""
        if state.trace is not None:
            for p in self.params:
                state.trace.reads_grad(p)
        missing = self.missing()
        if state.trace is not None:
            self._trace(state.trace)
            return
        if self.scattered():
            self.gather()
        if ranks.group is not None:
            for alike in self.runs():
                agree([self.params[i] for i in alike])
        self.count(missing)
        for block in self.blocks:
            if block.kernel is None or block.version != block.group.version:
                block = self.refitted(block)
            with on(block.flat):
                g = None if missing else self.joint_gradient(block)
                if g is not None:
                    numbers = block.numbers(self.numbers_at(block, self.late[block.indices[0]]))
                    block.run([block.flat, *block.state.values()], g, numbers)
                else:
                    self.step_each(block, bool(missing))
            if not missing:
                writes.wrote(block.flat)
        self.flush()

    def step_each(self, block: Block, alone: bool) -> None:
        """Update the parameters of a block one by one. alone: report the write of each, because others have no gradient."""
        late, numbers = -1, []
        run = block.run_rows if self.is_lazy(block.group) else block.run
        for i, arrays in zip(block.indices, block.views, strict=True):
            p = self.params[i]
            if p._grad is not None:
                namespace((arrays[0], p._grad._data))  # raises an error if devices differ
                if self.late[i] != late:
                    late = self.late[i]
                    numbers = block.numbers(self.numbers_at(block, late))
                run(arrays, p._grad._data, numbers)
                if alone:
                    writes.wrote(p._data)

    def joint_gradient(self, block: Block) -> Array | None:
        """The gradients of all parameters of a block in one array, for a single update; None if they are few or large, so that
        copying them does not pay, or if their updates differ.
        """
        first, *more = block.indices
        if not more or block.flat.size > thresholds.TOGETHER * len(block.indices) or self.is_lazy(block.group):
            return None
        parts = []
        for i in block.indices:
            gradient: Any = self.params[i]._grad  # each has one
            g = gradient._data
            if type(g) is not np.ndarray or g.dtype != block.dtype or self.late[i] != self.late[first]:
                return None
            parts.append(g.reshape(-1))
        return np.concatenate(parts)

    def missing(self) -> list[int]:
        """Indices of parameters without a gradient; warns the first time. Raises ShapeError for a gradient of another shape."""
        missing = []
        wrong = -1
        for i, p in enumerate(self.params):
            if p._grad is None:
                missing.append(i)
            elif wrong < 0 and p._grad._data.shape != p._data.shape:
                wrong = i
        name = type(self).__name__
        if missing and not self._warned:
            self._warned = True
            names = ", ".join(f"{self.params[i].name or f'parameter {i}'} {self.params[i].shape}" for i in missing)
            warn(f"{name}: no gradient reached {names}: the loss does not depend on it")
        if wrong >= 0:
            p = self.params[wrong]
            raise ShapeError(f"{name}: the gradient of parameter {wrong} has shape {p.grad.shape}, expected {p.shape}")
        return missing

    def count(self, missing: Iterable[int], by: int = 1) -> None:
        """Count a step (by=-1: undo one), given the parameters without a gradient."""
        self.__dict__["steps"] += by
        if missing:
            late = list(self.late)
            for i in missing:
                late[i] += by
            self.__dict__["late"] = tuple(late)

    def refitted(self, block: Block) -> Block:
        """Adapt the slots and the kernel of a block to its group's current settings."""
        if tuple(block.state) != self.slots_of(block.group):
            place = self.blocks.index(block)
            self.lay_out(self.state)
            block = self.blocks[place]
        block.kernel, block.version = self.kernel(block), block.group.version
        return block

    @property
    def until_flush(self) -> int:
        """How many steps there are until one sets negligible values to 0, that one included."""
        return FLUSH - self.steps % FLUSH

    def flush(self) -> None:
        """Every FLUSH steps, set negligible values of parameters and state to 0."""
        if self.steps % FLUSH:
            return
        for block in self.blocks:
            for array in block.flush(self.bounds(block.group, block.tiny)):
                writes.wrote(array)

    # Computation

    def numbers_at(self, block: Block, late: int) -> dict[str, float]:
        """The numbers of the current step, for a parameter that has missed `late` steps."""
        return self.numbers(block.group, self.steps - late)

    def _updated(self, group: ParamGroup, p: Value, g: Value, *state: Value, **numbers: Value) -> Sequence[Value]:
        """`update`, with the gradient negated for `maximize`."""
        return self.update(group, p, -g if group["maximize"] else g, *state, **numbers)

    def kernel(self, block: Block) -> Kernel:
        """`update` as one kernel that writes the parameter and its state in place."""
        group, dtype = block.group, str(block.dtype)
        names = list(self.numbers_at(block, self.steps - 1))
        count = 2 + len(block.state)

        def formula(*symbols: Any) -> Sequence[Any]:
            return self._updated(group, *symbols[:count], **dict(zip(names, symbols[count:], strict=True)))

        operands = [Operand("full", dtype)] * count + [Operand("number", dtype)] * len(names)
        chain = Chain.of(formula, operands)
        shared = {k: k + (k > 0) for k in range(1 + len(block.state))}
        return (ChainKernel if block.device == "cpu" else CudaChain)(chain, shared)

    def _trace(self, trace: Tracer[Tensor]) -> None:
        """Record a step on the flat arrays: consecutive parameters that have a gradient and the same number of steps are
        updated together.
        """
        if self.scattered():
            self.gather()
        if ranks.group is not None:
            for p in self.params:
                if p._grad is not None:
                    trace.writes_grad(p)
        trace.steps(self)
        self.count([i for i, p in enumerate(self.params) if p._grad is None])
        for block in self.blocks:
            if tuple(block.state) != self.slots_of(block.group):
                block = self.refitted(block)
            parts_of = list(zip(block.indices, block.parts, strict=True))
            rows = {i: self.row_gradient(trace, block, i) for i in block.indices}
            runs = groupby(parts_of, lambda part, rows=rows: (*self.moves(part[0]), part[0] if rows[part[0]] else -1))  # type: ignore[misc]
            for (has_gradient, _, alone), run in runs:
                if (named := rows.get(alone)) is not None:
                    self._trace_rows(trace, block, *next(run), *named)
                elif has_gradient:
                    self._trace_run(trace, block, list(run))

    def row_gradient(self, trace: Tracer[Tensor], block: Block, i: int) -> tuple[Tensor, Tensor] | None:
        """The gradient of a table and the indices of its non-zero rows in a recorded step; None if other rows change too, or if
        updating rows does not pay.
        """
        p = self.params[i]
        if p._grad is None or not p.ndim or block.half or block.device != "cpu" or not self.leaves_rows(block.group):
            return None
        if ranks.group is not None:  # other ranks use other rows
            return None
        found = trace.scatter_source(p._grad)
        return found if found is not None and thresholds.TABLE * found[1].size <= len(p) else None

    def _trace_rows(self, trace: Tracer[Tensor], block: Block, i: int, part: tuple[int, int], g: Tensor, t: Tensor) -> None:
        """Record a step that changes only some rows of a parameter."""
        shape = self.params[i].shape
        numbers = trace.recomputed(lambda: self.numbers_at(block, self.late[i]), block.near)
        targets = [array[slice(*part)].reshape(shape) for array in (block.flat, *block.state.values())]
        leaves = [wrap(array, None) for array in targets]
        with switched(recording=False):
            rows = [gather(leaf, t, index=AT) for leaf in leaves]
            g = sum_named(g, t, shape[0])
            new = self._updated(block.group, rows[0], g, *rows[1:], **numbers)
            if self.is_lazy(block.group):
                new = selected(in_nonzero_row(g), new, rows)
            values = [assign(leaf, value, t, index=AT) for leaf, value in zip(leaves, new, strict=True)]
        self._assign(trace, targets, values)

    def leaves_rows(self, group: ParamGroup) -> bool:
        """Whether a gradient of 0 leaves an element unchanged, so that a step need only visit the other rows of a table."""
        return self.is_lazy(group)

    def is_lazy(self, group: ParamGroup) -> bool:
        """Whether rows with an all-zero gradient are skipped, whatever `update` would do."""
        return False

    def moves(self, i: int) -> tuple[bool, int]:
        """Whether a parameter has a gradient, and the number of steps it has missed."""
        return self.params[i]._grad is not None, self.late[i] if self.params[i]._grad is not None else 0

    def hyperparameters(self) -> list[dict[str, Any]]:
        """The rates and settings of all groups."""
        return [{key: value for key, value in group.items() if key != "params"} for group in self.param_groups]

    def runs(self) -> list[list[int]]:
        """The groups of parameters that a recorded step updates together."""
        runs = []
        for block in self.blocks:
            runs += [list(run) for (has_gradient, _), run in groupby(block.indices, self.moves) if has_gradient]
        return runs

    def _trace_run(self, trace: Tracer[Tensor], block: Block, parts: list[tuple[int, tuple[int, int]]]) -> None:
        first, (start, _) = parts[0]
        stop = parts[-1][1][1]
        numbers = trace.recomputed(lambda: self.numbers_at(block, self.late[first]), block.near)
        params = [self.params[i] for i, _ in parts]
        if ranks.group is None or any(p._grad in ranks.averaged for p in params):
            agree(params)
            g = joined(params)
        else:
            g = agree(params)
        if g.dtype != block.dtype:
            g = ops.astype(g, block.dtype)
        targets = [array[start:stop] for array in (block.flat, *block.state.values())]
        leaves = [wrap(array, None) for array in targets]
        with switched(recording=False):
            p = ops.astype(leaves[0], block.dtype) if block.half else leaves[0]
            new = self._updated(block.group, p, g, *leaves[1:], **numbers)
            if self.is_lazy(block.group):
                masks = [ops.reshape(in_nonzero_row(self.params[i]._grad), (-1,)) for i, _ in parts]
                new = selected(masks[0] if len(masks) == 1 else ops.concatenate(masks), new, [p, *leaves[1:]])
            values = [ops.astype(new[0], block.flat.dtype) if block.half else new[0], *new[1:]]
        self._assign(trace, targets, values)

    def _assign(self, trace: Tracer[Tensor], targets: list[Array], values: list[Tensor]) -> None:
        """Write new values to parameters and state, now and in each replay."""
        changed = [(target, value) for target, value in zip(targets, values, strict=True) if value._data is not target]
        for target, value in changed:
            trace.assigns(target, value)
        for target, value in changed:
            with on(target):
                target[...] = value._data
        writes.wrote(targets[0])

    def zero_grad(self) -> None:
        """Set all gradients to None."""
        trace = state.trace
        for p in self.params:
            if trace is not None:
                trace.writes_grad(p)
            p._grad = None

    # State

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of everything but the parameters that the next step depends on.

        steps, late   number of steps, and for each parameter the number that it missed
        groups        the rate and the settings of each group, with "params" as indices of its parameters
        state         for each parameter slot to array
        """
        self.gather()
        numbers = iter(range(len(self.params)))
        groups = [{**group, "params": [next(numbers) for _ in group["params"]]} for group in self.param_groups]
        return {"steps": self.steps, "late": list(self.late), "groups": groups, "state": self._state_to_keep()}

    def _state_to_keep(self) -> list[dict[str, Array]]:
        """Copies of the state for the current settings; slots that the next step would create are zeros."""
        states: list[dict[str, Array]] = [{} for _ in self.params]
        for block in self.blocks:
            with on(block.flat):
                zeros = namespace([block.flat]).zeros
                for i, (start, stop) in zip(block.indices, block.parts, strict=True):
                    shape = self.params[i].shape
                    for slot in self.slots_of(block.group):
                        array = block.state.get(slot)
                        states[i][slot] = (
                            zeros(shape, block.dtype) if array is None else copied(array[start:stop].reshape(shape))
                        )
        return states

    @property
    def form(self) -> Any:
        """The expected structure of a state_dict; subclasses may extend it."""
        return self.state_form if is_own(type(self).state_dict.__module__) else Each(ANYTHING, self.state_form)

    def misfits(self, values: Any) -> list[str]:
        """The reasons why a state_dict cannot be loaded, in words."""
        return problems(values, self.form) or self.group_misfits(values) or self.array_misfits(values)

    def group_misfits(self, values: Mapping[str, Any]) -> list[str]:
        """Reasons: other parameters, other groups or invalid settings, in a state_dict of the right structure."""
        for name in ("state", "late"):
            if len(values[name]) != len(self.params):
                return [f"{name} for {len(values[name])} parameters, expected {len(self.params)}"]
        sizes = [len(group["params"]) for group in values["groups"]]
        expected = [len(group["params"]) for group in self.param_groups]
        if sizes != expected:
            return [f"groups of {', '.join(map(str, sizes))} parameters, expected {', '.join(map(str, expected))}"]
        if [i for group in values["groups"] for i in group["params"]] != list(range(len(self.params))):
            return ["groups whose params are not numbered consecutively"]
        if any(late > values["steps"] for late in values["late"]):
            return [f"late {max(values['late'])}, but steps {values['steps']}"]
        for group, settings in zip(self.param_groups, values["groups"], strict=True):
            if settings.keys() | self.later.keys() != group.keys():
                return [f"settings {', '.join(map(str, settings))}, expected {', '.join(group)}"]
            try:
                self.checked({**settings, "params": group["params"]}, group)
            except ArgumentError as error:
                return [f"an invalid value: {error}"]
        return []

    def array_misfits(self, values: Mapping[str, Any]) -> list[str]:
        """Reasons: missing or unknown state, or other shapes, in a state_dict with the right groups."""
        reasons = []
        params = iter(enumerate(zip(self.params, values["state"], strict=True)))
        for group, settings in zip(self.param_groups, values["groups"], strict=True):
            slots = self.slots_of(ParamGroup(type(self), {**settings, "params": group["params"]}))
            for _ in group["params"]:
                i, (p, arrays) = next(params)
                for slot, array in arrays.items():
                    if slot not in slots or array.shape != p.shape:
                        reasons.append(
                            f"{slot} of parameter {i} has shape {array.shape}, expected one of {slots} of shape {p.shape}"
                        )
                reasons += [f"{slot} of parameter {i} is missing" for slot in slots if slot not in arrays]
        return reasons

    def load_state_dict(self, values: Mapping[str, Any]) -> None:
        """Restore the state, rates and settings from a dict of `state_dict`.

        Checks everything before the first change. Raises ArgumentError if `values` is not such a state; ShapeError for
        parameters with other shapes or groups, or for invalid numbers.
        """
        if state.trace is not None:
            state.trace.forbid("load_state_dict()")
        if reasons := problems(values, self.form):
            raise ArgumentError(f"{type(self).__name__}.load_state_dict: {'; '.join(reasons)}")
        if reasons := self.misfits(values):
            raise ShapeError(f"{type(self).__name__}.load_state_dict: {reasons[0]}")
        for group, settings in zip(self.param_groups, values["groups"], strict=True):
            group.update({key: value for key, value in {**self.later, **settings}.items() if key != "params"})
        self.steps, self.late = int(values["steps"]), tuple(map(int, values["late"]))
        if any(tuple(block.state) != self.slots_of(block.group) for block in self.blocks):
            self.lay_out()
        self.restore(values["state"])


def in_nonzero_row(g: Value) -> Value:
    """For each element of a gradient, whether its row (along the first axis) is not all 0."""
    nonzero = g != 0
    return nonzero if g.ndim < 2 else ops.broadcast_to(nonzero.any(axis=tuple(range(1, g.ndim)), keepdims=True), g.shape)


def selected(mask: Value, new: Sequence[Value], old: Sequence[Value]) -> list[Value]:
    """New values where `mask` is True, old ones elsewhere."""
    return [ops.where(mask, a, b) for a, b in zip(new, old, strict=True)]
