"""What all optimisers share: the walk over the parameters, the kernel that changes them, a step recorded, what is kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, ClassVar

from tensorgrad import ops
from tensorgrad.core import writes
from tensorgrad.core.backend import Array, namespace, on
from tensorgrad.core.backend import copy as copied
from tensorgrad.core.form import ANYTHING, COUNT, FLOATS, Each, problems
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

# The state of a weight that gets no more gradients (a pixel that is always 0, a dead unit) shrinks to subnormal numbers, on
# which a processor is several times slower, and so does the weight itself under an L2 penalty: with momentum an epoch of digits
# took twice as long after 16 epochs, with Adam and a penalty one of MNIST 1.3 times as long after 10. So after every FLUSH-th
# step what is that small becomes 0.
FLUSH = 32


class Optimiser(Parameters):
    """Base of the optimisers. A subclass names its per-parameter arrays in `slots` and defines `numbers` and `update`.

    params     leaf Tensors that require a gradient: a list, one Tensor, a Module; or a list of groups, dicts of "params" and
               what is to be other than the arguments say: [{"params": weights, "weight_decay": 0.01}, {"params": biases}]
    lr         learning rate, may be changed between steps
    maximize   step up instead of down: every gradient counts as its negative
    settings   the other numbers and options, which the update reads; part of the state. Numbers are at least 0, unless
               `limits` says something else

    param_groups   the groups (one if none were given), dicts in which "lr" and the settings can be changed between steps
    lr             the rate of all groups: set, it is that of each; read where they differ, it is an error
    settings       the settings of all groups in the same way: `optimiser.settings["weight_decay"] = 0`
    steps          how many steps have been made
    late           for each parameter, in how many of them it had no gradient. Where a formula counts steps, as Adam's does,
                   it counts those of each parameter: t = steps - late is 1 at the first step that has a gradient of it

    The parameters of one dtype and device in a group are put into one flat array when the optimiser is made, `data` being a
    part of it from then on, so that one kernel can go over them all; they are changed in place. One without a gradient is left
    alone. When a model is moved to another device, the state follows at the next step.

    Of float16 parameters the state and the numbers are float32, which is computed in; what comes out is rounded once.

    Every 32 steps parameters closer to 0 than 8e-31 (float32; float64: 2e-300) become 0, and of the state what is as small and
    only added to what is larger (`bounds`): smaller numbers are slow to compute with. What is divided by stays as it is.

    A copy (copy.copy) has the same parameters and a state of its own, a deep copy and a pickle parameters of their own as well.
    """

    kept: ClassVar[Mapping[str, Any]] = {
        "steps": COUNT,
        "late": [COUNT],
        "groups": [Each(ANYTHING, {"params": [COUNT]})],
        "state": [Each(FLOATS)],
    }  # the form of its state_dict

    # What a subclass says

    def numbers(self, group: ParamGroup, t: int) -> dict[str, float]:
        """The numbers that `update` takes by name, at step t = 1, 2, ... of a parameter."""
        raise TypeError(f"{type(self).__name__} does not define numbers()")

    def update(self, group: ParamGroup, p: Value, g: Value, *state: Value, **numbers: Value) -> Sequence[Value]:
        """The new values of the parameter and of its state, by operators and NumPy's functions, element by element."""
        raise TypeError(f"{type(self).__name__} does not define update()")

    def bounds(self, group: ParamGroup, tiny: float) -> dict[str, float]:
        """The slots in which numbers that have become too small may be cleared, and what is too small: below the bound they
        must make no difference. `tiny` is the smallest normal number of the dtype. None, unless a subclass says so."""
        return {}

    # What users call

    def step(self) -> None:
        """Change every parameter that has a gradient. Warns once, naming them, of parameters that the loss does not reach."""
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
                late, numbers = -1, []
                for i, arrays in zip(block.indices, block.views, strict=True):
                    p = self.params[i]
                    if p._grad is not None:
                        namespace((arrays[0], p._grad._data))  # an error where they are on different devices
                        if self.late[i] != late:
                            late = self.late[i]
                            numbers = block.numbers(self.numbers_at(block, late))
                        run = block.run_rows if self.is_lazy(block.group) else block.run
                        run(arrays, p._grad._data, numbers)
                        if missing:
                            writes.wrote(p._data)
            if not missing:
                writes.wrote(block.flat)
        self.flush()

    def missing(self) -> list[int]:
        """Which parameters have no gradient; a word about them the first time. Raises ShapeError for one that does not fit."""
        missing = [i for i, p in enumerate(self.params) if p._grad is None]
        name = type(self).__name__
        if missing and not self._warned:
            self._warned = True
            names = ", ".join(f"{self.params[i].name or f'parameter {i}'} {self.params[i].shape}" for i in missing)
            warn(f"{name}: no gradient reached {names}: the loss does not depend on it")
        for i, p in enumerate(self.params):
            if p._grad is not None and p._grad.shape != p.shape:
                raise ShapeError(f"{name}: the gradient of parameter {i} has shape {p._grad.shape}, expected {p.shape}")
        return missing

    def count(self, missing: Iterable[int], by: int = 1) -> None:
        """A step, or with -1 one that is taken back, without gradients of some parameters."""
        self.__dict__["steps"] += by
        if missing:
            late = list(self.late)
            for i in missing:
                late[i] += by
            self.__dict__["late"] = tuple(late)

    def refitted(self, block: Block) -> Block:
        """A block with the slots and the kernel that the settings of its group ask for by now."""
        if tuple(block.state) != self.slots_of(block.group):
            place = self.blocks.index(block)
            self.lay_out(self.state)
            block = self.blocks[place]
        block.kernel, block.version = self.kernel(block), block.group.version
        return block

    def flush(self) -> None:
        """After a step: clear from parameters and state, once in FLUSH steps, what has become too small to matter."""
        if self.steps % FLUSH:
            return
        for block in self.blocks:
            for array in block.flush(self.bounds(block.group, block.tiny)):
                writes.wrote(array)

    # What a step computes

    def numbers_at(self, block: Block, late: int) -> dict[str, float]:
        """The numbers of the step that is being made, for a parameter that has missed so many."""
        return self.numbers(block.group, self.steps - late)

    def _updated(self, group: ParamGroup, p: Value, g: Value, *state: Value, **numbers: Value) -> Sequence[Value]:
        """`update`, up or down: the same group, p, g, state and numbers."""
        return self.update(group, p, -g if group["maximize"] else g, *state, **numbers)

    def kernel(self, block: Block) -> Kernel:
        """`update` as one kernel, which writes over the parameter and its state."""
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
        """A step, recorded on the flat arrays: all parameters at once that have a gradient, lie one after the other and have
        made as many steps."""
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
            rows = {i: self.named(trace, block, i) for i in block.indices}
            runs = groupby(parts_of, lambda part, rows=rows: (*self.moves(part[0]), part[0] if rows[part[0]] else -1))  # type: ignore[misc]
            for (reached, _, alone), run in runs:
                if (named := rows.get(alone)) is not None:
                    self._trace_rows(trace, block, *next(run), *named)
                elif reached:
                    self._trace_run(trace, block, list(run))

    def named(self, trace: Tracer[Tensor], block: Block, i: int) -> tuple[Tensor, Tensor] | None:
        """The rows of a table that have a gradient in a recorded step, as a Tensor of it and one of their numbers, where the
        others stay as they are and that is worth it."""
        p = self.params[i]
        if p._grad is None or not p.ndim or block.half or block.device != "cpu" or not self.leaves_rows(block.group):
            return None
        if ranks.group is not None:  # other ranks have read other rows
            return None
        found = trace.named(p._grad)
        return found if found is not None and thresholds.TABLE * found[1].size <= len(p) else None

    def _trace_rows(self, trace: Tracer[Tensor], block: Block, i: int, part: tuple[int, int], g: Tensor, t: Tensor) -> None:
        """A step of some rows of a parameter, the only ones to be changed."""
        shape = self.params[i].shape
        numbers = trace.asks(lambda: self.numbers_at(block, self.late[i]), block.near)
        targets = [array[slice(*part)].reshape(shape) for array in (block.flat, *block.state.values())]
        leaves = [wrap(array, None) for array in targets]
        with switched(recording=False):
            rows = [gather(leaf, t, index=AT) for leaf in leaves]
            g = sum_named(g, t, shape[0])
            new = self._updated(block.group, rows[0], g, *rows[1:], **numbers)
            if self.is_lazy(block.group):
                new = left_alone(wants_step(g), new, rows)
            values = [assign(leaf, value, t, index=AT) for leaf, value in zip(leaves, new, strict=True)]
        self._assign(trace, targets, values)

    def leaves_rows(self, group: ParamGroup) -> bool:
        """Whether a step leaves alone what has the gradient 0. Of a table then only rows with another are gone over."""
        return self.is_lazy(group)

    def is_lazy(self, group: ParamGroup) -> bool:
        """Whether rows of a parameter whose gradient is 0 throughout are left alone, whatever `update` would do to them."""
        return False

    def moves(self, i: int) -> tuple[bool, int]:
        """Whether a parameter has a gradient, and how many steps it has missed."""
        return self.params[i]._grad is not None, self.late[i] if self.params[i]._grad is not None else 0

    def told(self) -> list[dict[str, Any]]:
        """The rates and settings of all groups."""
        return [{key: value for key, value in group.items() if key != "params"} for group in self.param_groups]

    def runs(self) -> list[list[int]]:
        """The parameters with a gradient that a recorded step changes at once."""
        found = []
        for block in self.blocks:
            found += [list(run) for (reached, _), run in groupby(block.indices, self.moves) if reached]
        return found

    def _trace_run(self, trace: Tracer[Tensor], block: Block, parts: list[tuple[int, tuple[int, int]]]) -> None:
        first, (start, _) = parts[0]
        stop = parts[-1][1][1]
        numbers = trace.asks(lambda: self.numbers_at(block, self.late[first]), block.near)
        params = [self.params[i] for i, _ in parts]
        if ranks.group is None or any(p._grad in ranks.agreed for p in params):
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
                wanted = [ops.reshape(wants_step(self.params[i]._grad), (-1,)) for i, _ in parts]
                new = left_alone(wanted[0] if len(wanted) == 1 else ops.concatenate(wanted), new, [p, *leaves[1:]])
            values = [ops.astype(new[0], block.flat.dtype) if block.half else new[0], *new[1:]]
        self._assign(trace, targets, values)

    def _assign(self, trace: Tracer[Tensor], targets: list[Array], values: list[Tensor]) -> None:
        """Let the memory of parameters and state have new values, now and in each replay."""
        changed = [(target, value) for target, value in zip(targets, values, strict=True) if value._data is not target]
        for target, value in changed:
            trace.assigns(target, value)
        for target, value in changed:
            with on(target):
                target[...] = value._data
        writes.wrote(targets[0])

    def zero_grad(self) -> None:
        """Forget the gradients, so that the next backward() starts from nothing."""
        trace = state.trace
        for p in self.params:
            if trace is not None:
                trace.writes_grad(p)
            p._grad = None

    # What is kept

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on besides the parameters, copied.

        steps, late   how many have been made, and how many of them each parameter has missed
        groups        the rate and the settings of each group, "params" being the numbers of its parameters
        state         for each parameter slot to array
        """
        self.gather()
        numbers = iter(range(len(self.params)))
        groups = [{**group, "params": [next(numbers) for _ in group["params"]]} for group in self.param_groups]
        return {"steps": self.steps, "late": list(self.late), "groups": groups, "state": self._state_to_keep()}

    def _state_to_keep(self) -> list[dict[str, Array]]:
        """Copies of the state that the settings ask for by now: what the next step would make anew is there, as zeros."""
        found: list[dict[str, Array]] = [{} for _ in self.params]
        for block in self.blocks:
            with on(block.flat):
                zeros = namespace([block.flat]).zeros
                for i, (start, stop) in zip(block.indices, block.parts, strict=True):
                    shape = self.params[i].shape
                    for slot in self.slots_of(block.group):
                        own = block.state.get(slot)
                        found[i][slot] = zeros(shape, block.dtype) if own is None else copied(own[start:stop].reshape(shape))
        return found

    @property
    def form(self) -> Any:
        """What a state_dict of it has to be like; that of a subclass of yours may have more in it."""
        return self.kept if is_own(type(self).state_dict.__module__) else Each(ANYTHING, self.kept)

    def misfits(self, values: Any) -> list[str]:
        """What keeps a state_dict from being loaded, in words."""
        return problems(values, self.form) or self.group_misfits(values) or self.array_misfits(values)

    def group_misfits(self, values: Mapping[str, Any]) -> list[str]:
        """Other parameters, other groups of them, or settings that will not do, in a state_dict of the right form."""
        for name in ("state", "late"):
            if len(values[name]) != len(self.params):
                return [f"{name} of {len(values[name])} parameters for {len(self.params)}"]
        sizes = [len(group["params"]) for group in values["groups"]]
        own = [len(group["params"]) for group in self.param_groups]
        if sizes != own:
            return [f"groups of {', '.join(map(str, sizes))} parameters for {', '.join(map(str, own))}"]
        if [i for group in values["groups"] for i in group["params"]] != list(range(len(self.params))):
            return ["groups whose params are not numbered one after the other"]
        if any(late > values["steps"] for late in values["late"]):
            return [f"late {max(values['late'])}, but steps {values['steps']}"]
        for group, found in zip(self.param_groups, values["groups"], strict=True):
            if found.keys() | self.later.keys() != group.keys():
                return [f"settings {', '.join(map(str, found))}, expected {', '.join(group)}"]
            try:
                self.checked({**found, "params": group["params"]}, group)
            except ArgumentError as error:
                return [f"what cannot be: {error}"]
        return []

    def array_misfits(self, values: Mapping[str, Any]) -> list[str]:
        """State that is missing, not known or of another shape, in a state_dict of the right groups."""
        found = []
        params = iter(enumerate(zip(self.params, values["state"], strict=True)))
        for group, settings in zip(self.param_groups, values["groups"], strict=True):
            slots = self.slots_of(ParamGroup(type(self), {**settings, "params": group["params"]}))
            for _ in group["params"]:
                i, (p, arrays) = next(params)
                for slot, array in arrays.items():
                    if slot not in slots or array.shape != p.shape:
                        found.append(
                            f"{slot} of parameter {i} has shape {array.shape}, expected one of {slots} of shape {p.shape}"
                        )
                found += [f"{slot} of parameter {i} is missing" for slot in slots if slot not in arrays]
        return found

    def load_state_dict(self, values: Mapping[str, Any]) -> None:
        """Go on as the optimiser that `state_dict` was taken from, with its rates and settings.

        Raises, before anything is changed, ArgumentError for what is no such state; ShapeError if its parameters had other
        shapes or were grouped in another way, or if its numbers will not do.
        """
        if state.trace is not None:
            state.trace.forbid("load_state_dict()")
        if found := problems(values, self.form):
            raise ArgumentError(f"{type(self).__name__}.load_state_dict: {'; '.join(found)}")
        if found := self.misfits(values):
            raise ShapeError(f"{type(self).__name__}.load_state_dict: {found[0]}")
        for group, found in zip(self.param_groups, values["groups"], strict=True):
            group.update({key: value for key, value in {**self.later, **found}.items() if key != "params"})
        self.steps, self.late = int(values["steps"]), tuple(map(int, values["late"]))
        if any(tuple(block.state) != self.slots_of(block.group) for block in self.blocks):
            self.lay_out()
        self.restore(values["state"])


def wants_step(g: Value) -> Value:
    """For each element of a gradient whether its row, along the first axis, is not 0 throughout."""
    found = g != 0
    return found if g.ndim < 2 else ops.broadcast_to(found.any(axis=tuple(range(1, g.ndim)), keepdims=True), g.shape)


def left_alone(wanted: Value, new: Sequence[Value], old: Sequence[Value]) -> list[Value]:
    """The new values where they are wanted, elsewhere the old ones."""
    return [ops.where(wanted, a, b) for a, b in zip(new, old, strict=True)]
