"""The state of a training: the single list of its parts, for snapshots in memory and checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tensorgrad.core import writes
from tensorgrad.core.backend import Array, copy, put
from tensorgrad.core.form import ANYTHING, ARRAY, TEXT, Each, generator_problems, problems
from tensorgrad.core.tensor import Tensor
from tensorgrad.nn.module import Module
from tensorgrad.nn.trial import generators_of
from tensorgrad.ops import random
from tensorgrad.optim.optimiser import Optimiser
from tensorgrad.optim.schedule import Schedule

VALUES = ("model", "loss", "others")  # parameters and buffers
STEP = (*VALUES, "optimiser", "generators")  # changed by steps
EPOCH = ("memory", "generators", "loader")  # to undo an epoch: all values in few arrays, and the position in the data
FILE = (*STEP, "schedule", "loader", "validation")  # contents of checkpoints


class State:
    """The parts of a training, each with `state_dict` and `load_state_dict`.

    modules   the current modules of the model and of the loss if it is a module; callbacks may change them
    parts     by their names in checkpoints; None if missing
    """

    def __init__(
        self,
        model: Module | None = None,
        loss: Any = None,
        optimiser: Optimiser | None = None,
        schedule: Schedule | None = None,
        loader: Any = None,
        validation: Any = None,
    ) -> None:
        self.modules = modules_of(model, loss)
        self.parts: dict[str, Any] = {
            "loader": loader,
            "validation": validation,
            "model": model,
            "loss": loss if isinstance(loss, Module) else NO_MODULE,
            "others": OtherParameters(self.modules, optimiser),
            "optimiser": optimiser,
            "schedule": schedule,
            "generators": Generators(self.modules),
            "memory": Memory(self.modules, optimiser),
        }

    def take(self, *names: str) -> dict[str, Any]:
        """Copies of parts, by name; missing parts are left out."""
        return {name: state_of(self.parts[name]) for name in names if self.parts[name] is not None}

    def put(self, values: Mapping[str, Any]) -> None:
        """Restore values from `take` in place; loaders first, because they may refuse theirs."""
        for name, part in self.parts.items():
            if name in values:
                typed = isinstance(part, (Optimiser, Schedule))
                part.load_state_dict({k: v for k, v in values[name].items() if k != "type"} if typed else values[name])

    def misfits(self, values: Mapping[str, Any]) -> list[str]:
        """The reasons why the values of a file cannot be loaded, in words."""
        reasons = {name: misfits(part, values[name]) for name, part in self.parts.items() if name in values}
        return [f"{name}: {'; '.join(problems)}" for name, problems in reasons.items() if problems]


def modules_of(*parts: Any) -> list[Module]:
    """All modules in `parts`, in the order of `named_modules`, each once."""
    by_id = {id(module): module for part in parts if isinstance(part, Module) for _, module in part.named_modules()}
    return list(by_id.values())


def state_of(part: Any) -> Any:
    """The state of a part; for an optimiser or a schedule with its type."""
    values = part.state_dict()
    return {"type": type(part).__name__, **values} if isinstance(part, (Optimiser, Schedule)) else values


# Parts that are not objects of their own

NO_MODULE = Module()  # stands for a loss that is a function


class Memory:
    """All values that steps change, as the few flat arrays that hold them.

    For undoing an epoch; files hold the same values by name.
    """

    def __init__(self, modules: list[Module], optimiser: Any) -> None:
        self.modules, self.optimiser = modules, optimiser

    def state_dict(self) -> dict[str, Any]:
        return {
            "arrays": [copy(array) for array in self.optimiser.arrays()],
            "steps": self.optimiser.steps,
            "late": self.optimiser.late,
            "rates": self.optimiser.rates,
            "buffers": [{name: copy(array) for name, array in module._buffers.items()} for module in self.modules],
        }

    def load_state_dict(self, values: Mapping[str, Any]) -> None:
        pairs = list(zip(self.optimiser.arrays(), values["arrays"], strict=True))
        for module, buffers in zip(self.modules, values["buffers"], strict=True):
            pairs += [(module._buffers[name], array) for name, array in buffers.items()]
        write(pairs)
        self.optimiser.steps, self.optimiser.late = values["steps"], values["late"]
        self.optimiser.rates = values["rates"]


class OtherParameters:
    """Parameters of the optimiser outside of all modules, by their index in it."""

    def __init__(self, modules: list[Module], optimiser: Any) -> None:
        self.modules, self.optimiser = modules, optimiser

    def parameters(self) -> dict[str, Tensor]:
        inside = {id(p) for module in self.modules for p in module._parameters.values()}
        return {str(i): p for i, p in enumerate(self.optimiser.params) if id(p) not in inside}

    def state_dict(self) -> dict[str, Array]:
        return {name: copy(p._data) for name, p in self.parameters().items()}

    def load_state_dict(self, values: Mapping[str, Array]) -> None:
        write([(p._data, values[name]) for name, p in self.parameters().items()])


class Generators:
    """The random generators in use: dropout's default, and those that modules hold as attributes."""

    def __init__(self, modules: list[Module]) -> None:
        self.generators = generators_of(modules)

    def state_dict(self) -> list[Any]:
        return [random.state_of(rng) for rng in self.generators]

    def misfits(self, values: Any) -> list[str]:
        if found := problems(values, [{"generator": Each(ANYTHING), "gpus": Each(ARRAY)}]):
            return found
        kinds = [state["generator"].get("bit_generator") for state in values]
        expected = [type(rng.bit_generator).__name__ for rng in self.generators]
        if kinds != expected:
            return [f"holds generators {kinds}, the model has {expected}"]
        return [
            problem
            for i, (rng, state) in enumerate(zip(self.generators, values, strict=True))
            for problem in generator_problems(rng, state["generator"], f"{i}/generator")
        ]

    def load_state_dict(self, values: list[Any]) -> None:
        for rng, state in zip(self.generators, values, strict=True):
            random.set_state(rng, state)


def write(pairs: list[tuple[Array, Array]]) -> None:
    """Copy values into arrays, in place."""
    for target, values in pairs:
        put(target, values)
        writes.wrote(target)


# Checks


def misfits(part: Any, values: Any) -> list[str]:
    """The reasons why the values of a file do not fit a part, in words."""
    if isinstance(part, (Module, OtherParameters)):
        return array_misfits(part.state_dict(), values)
    if isinstance(part, (Optimiser, Schedule)):
        kind = type(part).__name__
        if found := problems(values, Each(ANYTHING, {"type": TEXT})):
            return found
        if values["type"] != kind:
            articles = ("the state of ", "of ") if isinstance(part, Optimiser) else ("a ", "a ")
            return [f"holds {articles[0]}{values['type']}, not {articles[1]}{kind}"]
        part_state = {name: value for name, value in values.items() if name != "type"}
        found = optimiser_misfits(part, part_state) if isinstance(part, Optimiser) else part.misfits(part_state)
        return [f"{kind}: {problem}" for problem in found]
    return part.misfits(values) if hasattr(part, "misfits") else []


def array_misfits(expected: Mapping[str, Array], values: Any) -> list[str]:
    """Arrays that are missing, unknown, not arrays, or of another shape or dtype."""
    if not isinstance(values, Mapping):
        return problems(values, Each(ARRAY))
    reasons = [f"missing {sorted(expected.keys() - values.keys())}"] if expected.keys() - values.keys() else []
    reasons += [f"unexpected {sorted(values.keys() - expected.keys(), key=str)}"] if values.keys() - expected.keys() else []
    for name, array in expected.items():
        if name in values and (problem_list := problems(values[name], ARRAY, name)):
            reasons += problem_list
        elif name in values and (values[name].shape, values[name].dtype) != (array.shape, array.dtype):
            got = f"{values[name].shape} {values[name].dtype}"
            reasons.append(f"{name} is {got}, expected {array.shape} {array.dtype}")
    return reasons


def optimiser_misfits(optimiser: Optimiser, values: Mapping[str, Any]) -> list[str]:
    """Differences in parameters, settings, or the dtype of the state of an optimiser."""
    if found := problems(values, optimiser.form) or optimiser.group_misfits(values):
        return found
    by_parameter = [
        f"parameter {i}: {problem}"
        for i, (expected, found) in enumerate(zip(optimiser.state, values["state"], strict=True))
        for problem in array_misfits(expected, found)
    ]
    return by_parameter or optimiser.array_misfits(values)
