"""States that are not as they were written: from another version, from a tool, from a mistake. Nothing is changed by them."""

from __future__ import annotations

import copy
import json
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tensorgrad import Tensor, data, nn, optim, train
from tensorgrad.errors import ArgumentError, CheckpointError, DataError, ShapeError, TensorgradError
from tensorgrad.ops import random
from tensorgrad.train import checkpoint
from tests.checkpoints.__main__ import EXTRA, KINDS, Small, listed
from tests.optimisers import CASES
from tests.training import Training

EVERY = bool(os.environ.get("CI") or os.environ.get("TENSORGRAD_THOROUGH"))
SUFFIXES = (".npz", ".safetensors")


# A nest with something wrong in it


def places(nest: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of everything in a nest, at every depth."""
    inner = nest.items() if isinstance(nest, dict) else enumerate(nest) if isinstance(nest, list) else ()
    for key, value in inner:
        yield (*path, key)
        yield from places(value, (*path, key))


def at(nest: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        nest = nest[key]
    return nest


def others(value: Any) -> list[Any]:
    """Values of other types."""
    if isinstance(value, np.ndarray):
        with np.errstate(all="ignore"):
            return [5, "text", None, {"a": value}, value.astype(np.float16), value.reshape(1, *value.shape)]
    if isinstance(value, bool):
        return ["text", None, 1, []]
    if isinstance(value, (int, float)):
        return ["text", None, {"a": 1}, [value], np.ones(3), True, *([value + 0.5] if isinstance(value, int) else [])]
    if isinstance(value, str):
        return [5, None, [value], {}]
    return [5, "text", [1] if isinstance(value, dict) else {"a": 1}, np.ones(2)]


def brief(value: Any) -> str:
    return f"array {value.shape} {value.dtype}" if isinstance(value, np.ndarray) else repr(value)[:40]


OLDER = {name for kind in (optim.SGD, optim.Adam, optim.RMSprop) for name in kind.later}  # what files of earlier versions lack


def edits(nest: Any) -> Iterator[tuple[str, Any]]:
    """(what has been done, the nest) for each thing in it left out, of another type, and with something beside it."""
    for path in places(nest):
        name = "/".join(map(str, path))

        def changed(change: Callable[[Any, Any], Any], path: tuple[Any, ...] = path) -> Any:
            found = copy.deepcopy(nest)
            change(at(found, path[:-1]), path[-1])
            return found

        if path[-1] not in OLDER:
            yield f"{name} left out", changed(lambda inner, key: inner.pop(key))
        for other in others(at(nest, path)):
            yield f"{name} = {brief(other)}", changed(lambda inner, key, other=other: inner.__setitem__(key, other))
        if isinstance(at(nest, path), dict):
            yield f"{name} has more", changed(lambda inner, key: inner[key].update(surplus=1))
        if isinstance(at(nest, path), list):
            yield f"{name} is longer", changed(lambda inner, key: inner[key].append(copy.deepcopy((inner[key] or [1])[-1])))
    yield "it has more", {**nest, "surplus": 1}


def some(found: list[Any], share: int) -> list[Any]:
    """Every so manyth; all of them where everything is run."""
    return found if EVERY else found[:: share if len(found) > 4 * share else 1]


def frozen(value: Any) -> Any:
    """A nest as what can be compared."""
    if isinstance(value, (dict, list, tuple)):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        return [(key, frozen(v)) for key, v in pairs]
    return (value.shape, str(value.dtype), value.tobytes()) if isinstance(value, np.ndarray) else repr(value)


# Files


def everything(training: Training) -> Any:
    parts = (training.model, training.optimiser, training.schedule, training.loader, training.stopping)
    modes = [module.training for _, module in training.model.named_modules()]
    generators = [rng.bit_generator.state for rng in (random.default(), training.model[5].rng)]
    return frozen([*(part.state_dict() for part in parts), modes, generators])


@pytest.fixture(scope="module", params=["SGD", "Adam"])
def interrupted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """What is in a file of a training in the middle of its third epoch."""
    training = Training(request.param)
    training.loader.press = 2 * len(training.loader) + 2
    path = tmp_path_factory.mktemp("states") / "a.npz"
    assert training.fit(checkpoint=path, compile=False).interrupted
    contents = checkpoint.read(path)
    assert contents["record"]["losses"].size == 3
    assert contents["callbacks"]["EarlyStopping.0"]["values"] is not None
    return request.param, contents


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_resuming_from_a_file_with_something_wrong_in_it(tmp_path: Path, interrupted: Any, suffix: str) -> None:
    name, contents = interrupted
    path, training = tmp_path / f"a{suffix}", Training(name, seed=9)
    before = everything(training)
    checkpoint.write(path, contents)
    checkpoint.read(path)
    # what the loss and the metrics gave may be of any shape, and any precision
    free = ("record/losses = array (3,) float16", "record/predictions/0 = array", "record/targets/0 = array")
    wrong = some([edit for edit in edits(contents) if not edit[0].startswith(free)], 29 if suffix == ".npz" else 67)
    assert len(wrong) > 10
    for what, nest in wrong:
        checkpoint.write(path, nest)
        with pytest.raises(CheckpointError) as raised:
            training.fit(resume=path, compile=False)
        message = str(raised.value)
        assert message.startswith(f"{path}: "), what
        assert str(what.split("/")[0].split(" ")[0].replace("it", "surplus")) in message, (what, message)
        assert everything(training) == before, what
    checkpoint.write(path, contents)
    training.fit(resume=path, compile=False)
    assert everything(training) != before


def test_loading_parts_from_a_file_with_something_wrong_in_it(tmp_path: Path, interrupted: Any) -> None:
    name, contents = interrupted
    path, training = tmp_path / "a.npz", Training(name, seed=9)
    parts = {part: getattr(training, part) for part in ("model", "optimiser", "schedule", "loader")}
    contents = {part: contents[part] for part in parts}
    before = everything(training)
    for what, nest in some(list(edits(contents)), 31):
        checkpoint.write(path, nest)
        with pytest.raises(CheckpointError):
            train.load(path, **parts)
        assert everything(training) == before, what


def test_what_is_no_checkpoint_names_its_key(tmp_path: Path, interrupted: Any) -> None:
    """At each depth: the names that lead there, in the message."""
    name, contents = interrupted
    path, training = tmp_path / "a.npz", Training(name, seed=9)
    for keys, message in (
        (("callbacks",), "callbacks is missing"),
        (("stop",), "stop is missing"),
        (("loader", "samples"), "loader: samples is missing"),
        (("optimiser", "steps"), "optimiser: .*: steps is missing"),
        (("generators", 0, "gpus"), "generators/0/gpus is missing"),
        (("generators", 0, "generator", "state"), "generators: 0/generator/state is missing"),
        (("record", "seconds"), "record: seconds is missing"),
        (("callbacks", "EarlyStopping.0"), "holds no callbacks/EarlyStopping.0, but one was passed"),
        (("callbacks", "EarlyStopping.0", "best"), "callbacks/EarlyStopping.0: best is missing"),
        (("callbacks", "EarlyStopping.0", "values", "model", "0.weight"), r"values/model: missing \['0.weight'\]"),
        (("history", "loss"), "holds a history of epoch, accuracy"),
        (("record",), "position is 3, but the record has 0 batches"),
    ):
        nest = copy.deepcopy(contents)
        at(nest, keys[:-1]).pop(keys[-1])
        checkpoint.write(path, nest)
        with pytest.raises(CheckpointError, match=rf"a\.npz: .*{message}"):
            training.fit(resume=path)


class Counting(train.Callback):
    """A callback of somebody's own, which takes what comes without a look."""

    def __init__(self) -> None:
        self.seen = 0

    def on_epoch_end(self, run: train.Run) -> None:
        self.seen += 1

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen, "more": {"twice": 2 * self.seen}}

    def load_state_dict(self, values: Any) -> None:
        self.seen = values["seen"]
        self.seen = values["more"]["twice"] // 2


class Odd(data.DataLoader):
    """A loader that refuses late."""

    def load_state_dict(self, values: Any) -> None:
        super().load_state_dict(values)
        raise ZeroDivisionError


def test_what_parts_of_ones_own_refuse_is_put_back(tmp_path: Path, interrupted: Any) -> None:
    name, _ = interrupted
    path = tmp_path / "a.npz"
    one = Training(name)
    one.fit(Counting(), checkpoint=path, epochs=2, compile=False)
    contents = checkpoint.read(path)
    two, counting = Training(name, seed=9), Counting()
    before = everything(two)
    for change in (lambda v: v.pop("seen"), lambda v: v.pop("more"), lambda v: v.update(more=5), lambda v: v.update(more={})):
        nest = copy.deepcopy(contents)
        change(nest["callbacks"]["Counting.0"])
        checkpoint.write(path, nest)
        with pytest.raises(CheckpointError, match=r"a\.npz: does not fit: callbacks/Counting.0: "):
            two.fit(counting, resume=path)
        assert (everything(two), counting.seen) == (before, 0)
    checkpoint.write(path, contents)
    two.loader = Odd(two.x, two.y, batch_size=16, shuffle=True, rng=two.loader.rng)
    before = everything(two)
    with pytest.raises(CheckpointError, match=r"a\.npz: does not fit: .*loader.*ZeroDivisionError"):
        two.fit(counting, resume=path)
    assert (everything(two), counting.seen) == (before, 0)

    def refuse(self: Any, values: Any) -> None:
        raise ZeroDivisionError

    three = Training(name, seed=9)
    kind = type(three.schedule)
    three.schedule = type(kind.__name__, (kind,), {"load_state_dict": refuse})(
        three.optimiser, *([3] if name == "Adam" else [])
    )
    before = everything(three)
    with pytest.raises(CheckpointError, match=r"a\.npz: does not fit: .*ZeroDivisionError"):  # after model and optimiser
        three.fit(counting, resume=path)
    assert (everything(three), counting.seen) == (before, 0)


# Files of earlier versions

KEPT = Path(__file__).parent / "checkpoints"
FILES = sorted(path for path in KEPT.glob("format-*/*") if path.suffix in SUFFIXES)


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_files_of_every_format_there_has_been(path: Path) -> None:
    """They are read, and trained on from; `python -m tests.checkpoints` writes those of a new format."""
    training, expected = Small(), json.loads(path.with_suffix(".json").read_text())
    contents = train.load(path, **training.parts())
    assert listed(contents) == expected
    for group in expected["optimiser"]["groups"]:
        group |= {key: value for key, value in training.optimiser.later.items() if key not in group}
    for name, part in training.parts().items():
        assert listed(part.state_dict()) == {key: v for key, v in expected[name].items() if key != "type"}
    if "epoch" in contents:
        assert Small().fit(3, resume=path)["epoch"] == [1, 2, 3]
    else:
        assert contents["extra"] == EXTRA


def test_settings_that_a_file_does_not_have_are_what_its_version_did() -> None:
    """Whatever the optimiser was made with: in files, in state dicts and in pickles of groups."""
    training = Small()
    training.optimiser.settings["lazy"] = True
    train.load(KEPT / "format-1" / "save.npz", **training.parts())
    assert training.optimiser.settings["lazy"] is False
    kind, values = training.optimiser.param_groups[0].__reduce__()[1]
    del values["lazy"]
    assert type(training.optimiser.param_groups[0])(kind, values)["lazy"] is False
    state = training.optimiser.state_dict()
    del state["groups"][0]["lazy"], state["groups"][0]["eps"]
    with pytest.raises(ShapeError, match="settings params, lr, betas, weight_decay, amsgrad, maximize, expected params, lr"):
        training.optimiser.load_state_dict(state)


def test_every_format_that_is_read_has_files() -> None:
    assert {path.parent.name for path in FILES} == {f"format-{name.rpartition(' ')[2]}" for name in checkpoint.FORMATS}
    assert checkpoint.FORMAT in checkpoint.FORMATS
    assert len(FILES) == len(KINDS) * len(SUFFIXES) * len(checkpoint.FORMATS)


# States in memory


def trained(make: Callable[[list[Tensor]], Any]) -> Any:
    params = [Tensor(np.linspace(1, 2, 3), True), Tensor(np.ones((2, 2)), True)]
    optimiser = make(params)
    for _ in range(2):
        if isinstance(optimiser, optim.LBFGS):

            def closure() -> Tensor:
                optimiser.zero_grad()
                loss = (params[0] ** 2).sum() + (params[1] ** 4).sum()
                loss.backward()
                return loss

            optimiser.step(closure)
        else:
            for p in params:
                p.grad = Tensor(p.data * 1.0)
            optimiser.step()
    return optimiser


ALL = {name: (lambda params, case=case: getattr(optim, case[0])(params, **case[1])) for name, case in CASES.items()}
ALL |= {"LBFGS": optim.LBFGS}
ALL |= {"groups": lambda params: optim.Adam([{"params": p} for p in params], lr=0.1)}


@pytest.mark.parametrize("name", ALL)
def test_states_of_optimisers(name: str) -> None:
    own, other = trained(ALL[name]), trained(ALL[name])
    state = pickle.loads(pickle.dumps(own.state_dict()))
    before = frozen(other.state_dict()), [p.data.tobytes() for p in other.params]
    for what, values in some([*edits(state), ("5", 5), ("None", None), ("empty", {}), ("odd", {5: 1, None: 2})], 11):
        if is_fine(what):
            continue
        with pytest.raises((ArgumentError, ShapeError), match=rf"{type(own).__name__}\.load_state_dict: "):
            other.load_state_dict(values)
        assert (frozen(other.state_dict()), [p.data.tobytes() for p in other.params]) == before, what
    other.load_state_dict(state)


def is_fine(what: str) -> bool:
    """Whether an edit in memory is a value as good as the one before: precision may differ, and L-BFGS may know less."""
    return "float16" in what or what.startswith(("memory/s", "memory/y")) or "max_eval" in what or "line_search = None" in what


def test_messages_of_states() -> None:
    p = Tensor(np.ones(2), requires_grad=True)
    adam = optim.Adam([p])
    with pytest.raises(
        ArgumentError, match=r"Adam\.load_state_dict: steps is missing; late is missing; groups is missing; state"
    ):
        adam.load_state_dict({})
    with pytest.raises(ArgumentError, match=r"steps is 1\.5, expected a non-negative integer"):
        adam.load_state_dict({**adam.state_dict(), "steps": 1.5})
    with pytest.raises(ArgumentError, match="late is missing; 5 is unknown; None is unknown"):
        adam.load_state_dict({5: 1, None: 2, **{k: v for k, v in adam.state_dict().items() if k != "late"}})
    with pytest.raises(ShapeError, match=r"missing \['bias', 'weight'\]; unexpected \[5, None\]"):
        nn.Linear(2, 2).load_state_dict({5: np.ones(1), None: np.ones(1)})
    with pytest.raises(DataError, match=r"DataLoader\.load_state_dict: samples is missing; batch_size is missing; generator"):
        data.DataLoader(np.ones((3, 2))).load_state_dict({})
    schedule = optim.StepLR(adam, 2)
    with pytest.raises(ArgumentError, match=r"StepLR\.load_state_dict: t is 1\.5, expected a non-negative integer"):
        schedule.load_state_dict({**schedule.state_dict(), "t": 1.5})


SCHEDULES: dict[str, Callable[[Any], optim.Schedule]] = {
    "step": lambda o: optim.StepLR(o, 2),
    "milestones": lambda o: optim.MultiStepLR(o, [2, 5]),
    "cosine": lambda o: optim.CosineLR(o, 9),
    "one cycle": lambda o: optim.OneCycleLR(o, 0.1, 9),
    "plateau": optim.ReduceOnPlateau,
    "rise": optim.CostRise,
    "warmup": lambda o: optim.Warmup(o, 2, optim.StepLR(o, 1)),
    "lambda": lambda o: optim.LambdaLR(o, lambda t: 0.9**t),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_states_of_schedules(name: str) -> None:
    def made() -> optim.Schedule:
        schedule = SCHEDULES[name](optim.SGD([Tensor(np.ones(2), True)], lr=1.0))
        for _ in range(3):
            schedule.step(1.0)
        return schedule

    own, other = made(), made()
    own.step(0.5)
    before = frozen(other.state_dict())
    for what, values in [*edits(own.state_dict()), ("5", 5), ("odd", {5: 1, None: 2})]:
        if what.startswith("milestones") and ("left out" in what or "longer" in what) and what != "milestones left out":
            continue  # others
        with pytest.raises(ArgumentError, match=rf"{type(own).__name__}\.load_state_dict: "):
            other.load_state_dict(values)
        assert frozen(other.state_dict()) == before, what
    other.load_state_dict(pickle.loads(pickle.dumps(own.state_dict())))
    assert frozen(other.state_dict()) == frozen(own.state_dict())


@pytest.mark.parametrize("kind", [np.random.PCG64, np.random.MT19937, np.random.Philox, np.random.SFC64, np.random.PCG64DXSM])
def test_states_of_loaders(kind: Any) -> None:
    """A bad place in a generator's numbers would be read from beyond their end."""

    def made(seed: int) -> data.DataLoader:
        rng = np.random.Generator(kind(seed))
        rng.random(3)
        return data.DataLoader(np.ones((9, 2)), batch_size=4, shuffle=True, rng=rng)

    own, other = made(1), made(2)
    batches = iter(own)
    next(batches)
    before, state = frozen(other.state_dict()), own.state_dict()
    wrong = [*edits(state), ("5", 5), ("odd", {5: 1, None: 2})]
    for key, inner in (("pos", "state"), ("buffer_pos", None)):
        if key in (place := state["generator"][inner] if inner else state["generator"]):
            for value in (-1, 10**6):
                bad = {**place, key: value}
                wrong.append((key, {**state, "generator": {**state["generator"], inner: bad} if inner else bad}))
    for what, values in some(wrong, 3):
        if what.startswith("order") and "float16" not in what and "[1" not in what and "array" in what:
            continue
        with pytest.raises(DataError, match=r"DataLoader\.load_state_dict: "):
            other.load_state_dict(values)
        assert frozen(other.state_dict()) == before, what
    other.load_state_dict(state)
    assert [b[0].shape for b in other] == [b[0].shape for b in batches]


def test_states_of_modules() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    before = frozen(model.state_dict())
    state = {name: array + 1 for name, array in model.state_dict().items()}
    for what, values in [*edits(state), ("5", 5), ("odd", {5: 1, None: 2})]:
        if "float16" in what or (" = 5" in what and "()" in str(np.shape(state.get(what.split(" ")[0], 0)))):
            continue  # of another precision
        with pytest.raises(TensorgradError, match="load_state_dict: Sequential: "):
            model.load_state_dict(values)
        assert frozen(model.state_dict()) == before, what


def test_pickles_that_lack_something() -> None:
    optimiser = trained(ALL["sgd momentum"])
    values = optimiser.__getstate__()
    for name in values:
        with pytest.raises(ArgumentError, match=rf"SGD: a pickle without {name}"):
            object.__new__(optim.SGD).__setstate__({key: value for key, value in values.items() if key != name})
    again = object.__new__(optim.SGD)
    again.__setstate__(values)
    assert frozen(again.state_dict()) == frozen(optimiser.state_dict())
