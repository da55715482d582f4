"""Parts of modules: set, replaced, deleted and nested in every way, each is found by all that asks, by nothing, or refused."""

from __future__ import annotations

import copy
import functools
import pickle
import re
import time
from collections import OrderedDict, UserDict, UserList, deque
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import tensorgrad
from tensorgrad import Tensor, nn, optim, train
from tensorgrad.errors import ArgumentError, OutOfRangeError, TensorgradError
from tensorgrad.nn import functional as F


class Net(nn.Module):
    """A layer, and what a case adds to it."""

    def __init__(self, add: Callable[[Any], Any] = lambda net: None) -> None:
        super().__init__()
        self.out = nn.Linear(2, 2)
        add(self)

    def forward(self, x: Any) -> Any:
        return self.out(x)


@dataclass
class Fields:
    part: Any


def linear() -> nn.Linear:
    return nn.Linear(2, 2)


# Plain containers, made of what is in them

PLAIN: dict[str, Callable[[Any], Any]] = {
    "list": lambda part: [0, part],
    "tuple": lambda part: (part,),
    "set": lambda part: {part},
    "frozenset": lambda part: frozenset([part]),
    "deque": lambda part: deque([part]),
    "dict": lambda part: {"a": part},
    "keys": lambda part: {part: 1},
    "OrderedDict": lambda part: OrderedDict(a=part),
    "UserList": lambda part: UserList([part]),
    "UserDict": lambda part: UserDict(a=part),
    "two levels": lambda part: [{"a": (part,)}],
    "three levels": lambda part: {"a": [[{1: part}]]},
    "objects": lambda part: objects(part),
    "dataclass": Fields,
    "namespace": lambda part: SimpleNamespace(part=part),
    "partial": lambda part: functools.partial(print, part),
    "partial of": lambda part: functools.partial(linear_of, part),
    "generator": lambda part: (p for p in [part]),
    "map": lambda part: map(lambda p: p, [part]),
    "filter": lambda part: filter(lambda p: True, [part]),
    "iter": lambda part: iter((part,)),
    "zip": lambda part: zip([part], strict=True),
    "reversed": lambda part: reversed([part]),
    "enumerate": lambda part: enumerate([part]),
}
PARTS: dict[str, Callable[[], Any]] = {"module": linear, "parameter": lambda: nn.Parameter([1.0, 2.0])}


def objects(part: Any) -> np.ndarray:
    array = np.empty((2, 1), object)
    array[1, 0] = part
    return array


def linear_of(part: Any) -> Any:
    return part


ASKED: dict[str, Callable[[Any], Any]] = {
    "parameters": lambda net: list(net.parameters()),
    "named_modules": lambda net: list(net.named_modules()),
    "named_buffers": lambda net: list(net.named_buffers()),
    "state_dict": lambda net: net.state_dict(),
    "load_state_dict": lambda net: net.load_state_dict({}, strict=False),
    "to": lambda net: net.to(dtype="float64"),
    "train": lambda net: net.train(),
    "eval": lambda net: net.eval(),
    "call": lambda net: net(np.ones((1, 2), np.float32)),
    "optimiser": lambda net: optim.SGD(net.parameters(), lr=0.1),
    "predict": lambda net: train.predict(net, np.ones((1, 2), np.float32)),
    "inside": lambda net: nn.Sequential(net).state_dict(),
}


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("container", PLAIN)
@pytest.mark.parametrize("name", ["layers", "_layers"])
def test_a_plain_container_is_refused_when_it_is_set(container: str, part: str, name: str) -> None:
    made = PLAIN[container](PARTS[part]())
    with pytest.raises(ArgumentError, match=rf"Net: {name} is a \w+ that contains modules or parameters") as caught:
        Net(lambda net: setattr(net, name, made))
    kind = {"module": "Module", "parameter": "Parameter"}[part]
    assert f"use nn.{kind}" in str(caught.value) or "use a separate attribute of the module for each" in str(caught.value)


# Filled after they were set

FILLED: dict[str, tuple[Callable[[], Any], Callable[[Any, Any], Any]]] = {
    "append": (list, lambda held, part: held.append(part)),
    "extend": (list, lambda held, part: held.extend([part])),
    "index": (lambda: [0], lambda held, part: held.__setitem__(0, part)),
    "inner": (lambda: [[]], lambda held, part: held[0].append(part)),
    "in a tuple": (lambda: ([],), lambda held, part: held[0].append(part)),
    "dict": (dict, lambda held, part: held.update(a=part)),
    "dict of lists": (lambda: {"a": []}, lambda held, part: held["a"].append(part)),
    "set": (set, lambda held, part: held.add(part)),
    "deque": (deque, lambda held, part: held.appendleft(part)),
    "objects": (lambda: np.empty(2, object), lambda held, part: held.__setitem__(1, part)),
    "dataclass": (lambda: Fields(None), lambda held, part: setattr(held, "part", part)),
    "namespace": (SimpleNamespace, lambda held, part: setattr(held, "part", part)),
}


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("way", FILLED)
def test_a_container_that_is_filled_later_is_found_where_parts_are_asked_for(way: str, asked: str) -> None:
    make, fill = FILLED[way]

    def add(net: Any) -> None:
        net.layers = make()
        fill(net.layers, linear())

    with pytest.raises(ArgumentError, match=r"Net: layers is a \w+ that contains modules .* is a Linear; use "):
        ASKED[asked](Net(add))
    net = Net(add)
    assert repr(net)  # which is what one looks at then


def test_what_is_a_part_may_be_in_a_list_as_well() -> None:
    net = Net(lambda net: setattr(net, "order", [net.out, {"bias": net.out.bias}]))
    net.order.append(net)  # itself
    assert [name for name, _ in net.named_parameters()] == ["out.weight", "out.bias"]
    for asked in ASKED.values():
        asked(net)
    held = Net(lambda net: net.__dict__.__setitem__("teacher", linear()))  # the way to hold one that is to be no part
    assert [name for name, _ in held.named_parameters()] == ["out.weight", "out.bias"]


def test_what_hides_nothing_is_left_alone() -> None:
    kinds = [
        1,
        "text",
        None,
        [1, [2, "a"]],
        {"a": nn.ReLU},
        nn.Linear,
        F.relu,
        {1, 2},
        deque([1]),
        np.arange(3),
        Tensor([1.0]),
        Fields(3),
    ]
    for value in kinds:
        net = Net(lambda net, value=value: setattr(net, "value", value))
        assert net.value is value
        for asked in ASKED.values():
            asked(net)
        net.value = 3
    net = Net(lambda net: setattr(net, "numbers", (n * n for n in range(3))))
    assert list(net.numbers) == [0, 1, 4]
    own = []
    own.append(own)  # a circle
    assert Net(lambda net: setattr(net, "own", own)).state_dict()


def test_a_long_memory_takes_no_time() -> None:
    """A replay buffer, say: 1,000 elements of an attribute are looked at, those at the top first."""

    def parts(net: Any) -> float:
        start = time.perf_counter()
        list(net.parameters())
        return time.perf_counter() - start

    long = Net(lambda net: setattr(net, "memory", deque((i, (i, 2.0), {"a": i}) for i in range(200_000))))
    long.numbers, long.words = list(range(200_000)), dict.fromkeys(range(200_000), "a")
    assert min(parts(long) for _ in range(5)) < 0.05  # 0.5 s if all of it is looked at
    long.memory[998] = linear()
    with pytest.raises(ArgumentError, match=r"memory\[998\] is a Linear"):
        list(long.parameters())


def test_parts_of_a_class_are_refused() -> None:
    class Shared(Net):
        layer = linear()

    with pytest.raises(ArgumentError, match=r"Shared: layer is a Linear set on the class.*set self.layer in __init__"):
        Shared().state_dict()

    class Listed(Net):
        layers = (linear(),)

    with pytest.raises(ArgumentError, match=r"Listed: layers is a tuple that contains modules"):
        list(Listed().parameters())


def test_what_a_cached_property_makes() -> None:
    class Lazy(Net):
        @functools.cached_property
        def layer(self) -> nn.Linear:
            return linear()

        @functools.cached_property
        def first(self) -> nn.Linear:
            return self.out

    net = Lazy()
    assert net.first is net.out
    assert len(list(net.parameters())) == 2
    assert net.layer
    with pytest.raises(
        ArgumentError, match=r"Lazy: layer is a Linear .*layer \(of a cached_property\) is a Linear; use a separate attribute"
    ):
        net.state_dict()


# Replaced and deleted

PLACED: dict[str, Callable[[], Any]] = {
    "parameter": lambda: nn.Parameter(np.zeros((2, 2), "f")),
    "module": linear,
    "None": lambda: None,
    "array": lambda: np.zeros((2, 2), "f"),
    "Tensor": lambda: Tensor(np.zeros((2, 2), "f")),
    "leaf": lambda: Tensor(np.zeros((2, 2), "f"), requires_grad=True),
    "computed": lambda: linear().weight * 2,
    "number": lambda: 3.0,
    "text": lambda: "weight",
    "list": lambda: [[0.0, 0.0], [0.0, 0.0]],
    "function": lambda: F.relu,
    "class": lambda: nn.ReLU,
}
TAKEN: dict[str, tuple[str, ...]] = {  # what may take the place of what
    "weight": ("parameter", "None"),
    "absent": ("parameter", "None"),
    "part": ("parameter", "module", "None"),
    "mean": ("parameter", "module", "None", "array", "Tensor", "number", "list"),
}


class Places(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(np.ones((2, 2), "f"))
        self.register_parameter("absent", None)
        self.part = linear()
        self.register_buffer("mean", np.ones((2, 2), "f"))


@pytest.mark.parametrize("value", PLACED)
@pytest.mark.parametrize("place", TAKEN)
def test_what_takes_the_place_of_a_part(place: str, value: str) -> None:
    owner, new = Places(), PLACED[value]()
    before = {name: array.copy() for name, array in owner.state_dict().items()}
    if value not in TAKEN[place]:
        with pytest.raises(ArgumentError, match=rf"Places: .*'{place}'"):
            setattr(owner, place, new)
        after = owner.state_dict()
        assert after.keys() == before.keys()
        for name in before:
            np.testing.assert_array_equal(after[name], before[name])
        return
    setattr(owner, place, new)
    rest = {name for name in before if name.partition(".")[0] != place}
    inside = {"parameter": {place}, "module": {f"{place}.weight", f"{place}.bias"}, "None": set()}.get(value, {place})
    found = {name for name, _ in owner.named_parameters()} | {name for name, _ in owner.named_buffers()}
    assert owner.state_dict().keys() == found == rest | inside
    assert (getattr(owner, place) is new) or value in ("Tensor", "number", "list")


@pytest.mark.parametrize("place", [*TAKEN, "training"])
def test_deleted_it_is_gone(place: str) -> None:
    owner = Places()
    delattr(owner, place)
    assert not hasattr(owner, place)
    assert not any(name.partition(".")[0] == place for name in owner.state_dict())
    with pytest.raises(AttributeError):
        delattr(owner, place)
    if place != "training":
        setattr(owner, place, 3.0)  # nothing is left of what it was
        assert getattr(owner, place) == 3.0


def test_a_layer_without_what_was_deleted() -> None:
    layer = nn.Linear(3, 2)
    del layer.bias
    assert list(layer.state_dict()) == ["weight"]
    with pytest.raises(AttributeError, match="Linear has no attribute 'bias'"):
        layer(np.ones((1, 3), "f"))
    layer = nn.Linear(3, 2)
    layer.bias = None
    assert layer(np.ones((1, 3), "f")).shape == (1, 2)
    message = "Linear: only a Parameter or None can replace the parameter 'bias', got a ndarray of shape (2,), which would not"
    with pytest.raises(ArgumentError, match=re.escape(message)):
        layer.bias = np.zeros(2, "f")
    with pytest.raises(ArgumentError, match="'bias'"):
        nn.Linear(3, 2, bias=False).bias = np.zeros(2, "f")
    with pytest.raises(ArgumentError, match=r"with no_grad\(\): weight.data\[...\] = values .* nn.Parameter\(values\)"):
        layer.weight = layer.weight * 0.5


def test_a_module_of_which_something_is_gone_can_be_shown() -> None:
    for make, name in ((linear, "weight"), (lambda: nn.Embedding(2, 2), "weight"), (lambda: nn.BatchNorm1d(2), "running_mean")):
        for act in (lambda layer, name: setattr(layer, name, None), delattr):
            layer = make()
            act(layer, name)
            assert repr(layer).startswith(f"{type(layer).__name__}(...)")


@pytest.mark.parametrize("name", ["train", "forward", "parameters", "_parameters", "training", "a.b", "", "_name"])
def test_names_that_a_part_cannot_have(name: str) -> None:
    for act in (
        lambda net: setattr(net, name, linear()),
        lambda net: setattr(net, name, nn.Parameter([1.0])),
        lambda net: net.register_buffer(name, [1.0]),
        lambda net: net.register_parameter(name, nn.Parameter([1.0])),
    ):
        net = Net()
        with pytest.raises(ArgumentError, match=f"Net: {name!r} cannot name a part"):
            act(net)
        assert [n for n, _ in net.named_parameters()] == ["out.weight", "out.bias"]
    assert callable(Net().train)


def test_before_and_after_init() -> None:
    class Early(nn.Module):
        def __init__(self, act: Callable[[Any], Any]) -> None:
            act(self)
            super().__init__()

    for act in (
        lambda net: setattr(net, "part", linear()),
        lambda net: setattr(net, "weight", nn.Parameter([1.0])),
        lambda net: net.register_buffer("mean", [1.0]),
    ):
        with pytest.raises(AttributeError, match=r"Early: call super\(\).__init__\(\) before setting"):
            Early(act)
    with pytest.raises(ArgumentError, match="Early: layers is a list"):
        Early(lambda net: setattr(net, "layers", [linear()]))
    assert Early(lambda net: setattr(net, "n", 3)).n == 3

    class Never(nn.Module):
        def __init__(self) -> None:
            self.n = 3

        def forward(self, x: Any) -> Any:
            return x

    with pytest.raises(AttributeError, match=r"Never: call super\(\).__init__\(\) first"):
        Never()(1)

    class Left(nn.Module):
        def __init__(self) -> None:
            nn.Module.__init__(self)
            self.left = linear()

    class Right(nn.Module):
        def __init__(self) -> None:
            nn.Module.__init__(self)
            self.right = linear()

    class Both(Left, Right):
        def __init__(self) -> None:
            Left.__init__(self)
            Right.__init__(self)  # a second start, which takes nothing away

    assert {name for name, _ in Both().named_modules()} == {"", "left", "right"}


# Tied weights


def tied() -> Any:
    def add(net: Any) -> None:
        net.same = net.out
        net.other = nn.Linear(2, 2, bias=False)
        net.other.weight = net.out.weight
        net.norm = nn.BatchNorm1d(2)
        net.again = nn.Sequential(net.norm)

    return Net(add)


def test_tied_weights_are_counted_once_and_saved_so_that_they_load(tmp_path: Any) -> None:
    net = tied()
    names = ["out.weight", "out.bias", "norm.weight", "norm.bias"]
    assert [name for name, _ in net.named_parameters()] == names
    assert [name for name, _ in net.named_buffers()] == ["norm.running_mean", "norm.running_var"]
    assert [name for name, _ in net.named_modules()] == ["", "out", "other", "norm", "again"]
    assert len(optim.SGD(net.parameters(), lr=0.1).params) == 4
    assert "(same) the same as out" in repr(net)
    assert repr(net).splitlines()[0].endswith(" 10")
    twin = tied()
    twin.load_state_dict(net.state_dict())
    np.testing.assert_array_equal(twin.other.weight.data, net.out.weight.data)
    train.save(tmp_path / "tied.npz", model=net)
    third = tied()
    train.load(tmp_path / "tied.npz", model=third)
    np.testing.assert_array_equal(third.same.weight.data, net.out.weight.data)
    state = net.state_dict()
    twin.load_state_dict({**state, "other.weight": state["out.weight"], "same.bias": state["out.bias"]})  # as others save it
    by_other = {**{k: v for k, v in state.items() if k != "out.weight"}, "other.weight": state["out.weight"] + 1}
    twin.load_state_dict(by_other)
    np.testing.assert_array_equal(twin.out.weight.data, state["out.weight"] + 1)
    with pytest.raises(
        TensorgradError, match=r"other.weight and out.weight are one array in the model, but two in the given values"
    ):
        twin.load_state_dict({**state, "other.weight": state["out.weight"] + 1})


def test_modules_in_a_circle() -> None:
    net = Net()
    net.out.above = net
    assert [name for name, _ in net.named_modules()] == ["", "out"]
    assert len(net.state_dict()) == 2
    assert repr(net)
    assert train.predict(net, np.ones((1, 2), "f")).shape == (1, 2)


def test_modules_that_are_shared_many_times_over() -> None:
    net = linear()
    for _ in range(60):
        net = nn.Sequential(net, net)
    assert len(list(net.named_modules())) == 61
    assert len(net.state_dict()) == 2
    assert len(repr(net).splitlines()) == 121
    copy.deepcopy(net)


def test_a_property_that_refuses_leaves_nothing() -> None:
    class Fixed(nn.Module):
        @property
        def layer(self) -> int:
            return 3

    fixed = Fixed()
    for value in (linear(), nn.Parameter([1.0])):
        with pytest.raises(AttributeError):
            fixed.layer = value
    assert not fixed.state_dict()


# Copies


def zoo() -> dict[str, Any]:
    net = tied()
    net.several = nn.ModuleList([linear(), nn.Dropout(0.5, rng=np.random.default_rng(0))])
    net.named = nn.ModuleDict({"a": nn.BatchNorm2d(2), "b": nn.Sequential(OrderedDict(one=linear(), two=nn.ReLU()))})
    net.numbers = nn.ParameterList([nn.Parameter([1.0]), nn.Parameter([[2.0]])])
    net.words = nn.ParameterDict({"x": nn.Parameter([3.0])})
    net.register_parameter("nothing", None)
    return {
        "net": net,
        "loss": nn.CrossEntropyLoss([1.0, 2.0]),
        "conv": nn.Conv2d(1, 2, 3, bias=False),
        "sequential": nn.Sequential(linear()),
    }


@pytest.mark.parametrize("name", list(zoo()))
@pytest.mark.parametrize("way", ["deepcopy", "pickle", "copy"])
def test_copies_are_whole_and_independent(name: str, way: str) -> None:
    for stepped in (False, True):
        check_copies(zoo()[name], way, stepped)


def check_copies(module: nn.Module, way: str, stepped: bool) -> None:
    parameters = list(module.parameters())
    if stepped and parameters:
        parameters[0].register_hook(lambda g: None if way == "pickle" else g)
        optimiser = optim.SGD(parameters, lr=0.1)
        for p in parameters:
            p.grad = Tensor(np.ones(p.shape, p.dtype))
        optimiser.step()
    make = {"deepcopy": copy.deepcopy, "copy": copy.copy, "pickle": lambda m: pickle.loads(pickle.dumps(m))}[way]
    before = module.state_dict()
    twin = make(module)
    assert repr(twin) == repr(module)
    assert [n for n, _ in twin.named_modules()] == [n for n, _ in module.named_modules()]
    for key, array in twin.state_dict().items():
        np.testing.assert_array_equal(array, before[key])
    if way == "copy":
        assert all(p is q for p, q in zip(twin.parameters(), module.parameters(), strict=True))
    else:
        for (_, p), (_, q) in zip(twin.named_parameters(), module.named_parameters(), strict=True):
            assert p is not q
            assert type(p) is nn.Parameter
            assert not np.shares_memory(p.data, q.data)
            p.data[...] += 1
        for (_, a), (_, b) in zip(twin.named_buffers(), module.named_buffers(), strict=True):
            a[...] += 1
            assert not np.shares_memory(a, b)
    twin.extra = nn.ReLU()
    twin.number = nn.Parameter([1.0])
    twin.register_buffer("more", [1.0])
    if hasattr(twin, "out"):
        twin.out = None
    assert not hasattr(module, "extra")
    assert module.state_dict().keys() == before.keys()
    for key, array in module.state_dict().items():
        np.testing.assert_array_equal(array, before[key])


# Containers


def test_sequential_refuses_what_is_no_module() -> None:
    for value, text in (
        (nn.ReLU, r"is the class ReLU, expected a Module; write ReLU\(\), with parentheses"),
        (tensorgrad.relu, r"is the function relu, expected a Module; write a Module whose forward calls it, or nn.ReLU\(\)"),
        (np.tanh, r"is the function tanh, .* or nn.Tanh\(\)"),
        (F.leaky_relu, r"is the function leaky_relu, .* or nn.LeakyReLU\(\)"),
        (lambda x: x, r"is the function <lambda>, expected a Module; write a Module whose forward calls it"),
        (None, "is None, expected a Module"),
        ("relu", "is 'relu', expected a Module"),
        (3, "is 3, expected a Module"),
        ([nn.ReLU()], r"is a list, expected a Module; pass its items one by one: nn.Sequential\(\*layers\)"),
        ((part for part in [nn.ReLU()]), r"is a generator, expected a Module; pass its items one by one"),
        (np.ones(2), r"is a ndarray of shape \(2,\), expected a Module"),
        (nn.Parameter([1.0]), r"is a Parameter of shape \(1,\), expected a Module"),
        (dict, "is the class dict, expected a Module"),
    ):
        with pytest.raises(ArgumentError, match=f"Sequential: argument 1 {text}"):
            nn.Sequential(nn.Identity(), value)
        net = nn.Sequential(nn.Identity())
        for act in (
            lambda net, value=value: net.append(value),
            lambda net, value=value: net.insert(0, value),
            lambda net, value=value: net.__setitem__(0, value),
            lambda net, value=value: nn.ModuleList([value]),
            lambda net, value=value: nn.ModuleDict({"a": value}),
        ):
            with pytest.raises(ArgumentError, match=text.partition(";")[0].partition(", .*")[0]):
                act(net)
        assert len(net) == 1
    for wrong in (3, "text", {"a": nn.ReLU()}, None):
        with pytest.raises(ArgumentError, match=r"ModuleList: expected a list of Modules"):
            nn.ModuleList(wrong)
    for wrong in (3, [nn.ReLU()], "text", None):
        with pytest.raises(ArgumentError, match=r"ModuleDict: expected a dict from name to Module"):
            nn.ModuleDict(wrong)


@pytest.mark.parametrize("kind", [nn.ModuleList, nn.ParameterList, nn.Sequential])
def test_lists_do_what_lists_do(kind: Any) -> None:
    """Random acts, on the container and on a list beside it."""
    rng = np.random.default_rng(0)

    def new() -> Any:
        return nn.Parameter([1.0]) if kind is nn.ParameterList else linear()

    def made(parts: list[Any]) -> Any:
        return kind(*parts) if kind is nn.Sequential else kind(parts)

    listed = [new() for _ in range(3)]
    held = made(listed)
    for _ in range(300):
        i, j = (int(n) for n in rng.integers(-4, 5, 2))
        part, several = new(), [new() for _ in range(rng.integers(0, 3))]
        step = int(rng.choice([1, 2, -1]))
        act = rng.choice(["append", "extend", "insert", "set", "del", "del slice", "set slice", "pop", "iadd"])
        acts: dict[str, Callable[[Any], Any]] = {
            "append": lambda a, part=part: a.append(part),
            "extend": lambda a, several=several: a.extend(several),
            "insert": lambda a, i=i, part=part: a.insert(i, part),
            "set": lambda a, i=i, part=part: a.__setitem__(i, part),
            "del": lambda a, i=i: a.__delitem__(i),
            "del slice": lambda a, i=i, j=j, step=step: a.__delitem__(slice(i, j, step)),
            "set slice": lambda a, i=i, j=j, several=several: a.__setitem__(slice(i, j), several),
            "pop": lambda a, i=i: a.pop(i),
            "iadd": lambda a, several=several: a.__iadd__(several),
        }
        try:
            acts[act](listed)
        except IndexError:
            with pytest.raises(OutOfRangeError):
                acts[act](held)
        else:
            acts[act](held)
        assert len(held) == len(listed)
        assert all(a is b for a, b in zip(held, listed, strict=True))
        assert all(a is b for a, b in zip(reversed(held), reversed(listed), strict=True))
        part = held[i:j:step]
        assert [id(p) for p in part] == [id(p) for p in listed[i:j:step]]
        assert type(part) is kind
        inside = held._parameters if kind is nn.ParameterList else held._modules
        assert [id(p) for p in inside.values()] == [id(p) for p in listed]
        assert list(inside) == [str(n) for n in range(len(listed))]
        assert all(getattr(held, name) is p for name, p in inside.items())
        assert {name for name in vars(held) if name.isdecimal()} == set(inside)
        assert all(p in held for p in listed)
        assert part not in held
        if len(listed) > 8:
            del listed[3:]
            del held[3:]
    both = held + kind(*[new()] if kind is nn.Sequential else [[new()]])
    assert len(both) == len(held) + 1
    assert held[np.int64(0)] is listed[0]
    for wrong in (1.0, "0", None, True):
        with pytest.raises(ArgumentError, match=f"{kind.__name__}: an index must be an integer"):
            held[wrong]
    assert list(kind()) == []


def test_sequential_by_names() -> None:
    net = nn.Sequential(OrderedDict(first=linear(), act=nn.ReLU()))
    assert list(net.state_dict()) == ["first.weight", "first.bias"]
    assert net.act is net[1] is net[-1]
    x = np.ones((1, 2), "f")
    np.testing.assert_array_equal(net(x).data, np.maximum(net.first(x).data, 0))
    net.append(nn.Tanh())
    net.insert(1, nn.Identity())
    assert [list(net._modules)[i] for i in (0, 2)] == ["first", "act"]
    net[0] = nn.Identity()
    assert isinstance(net.first, nn.Identity)
    assert list(net[2:]._modules) == list(net._modules)[2:]
    rest = nn.Sequential(linear(), nn.ReLU(), linear())[1:]
    assert list(rest._modules) == ["1", "2"]  # so that errors name them as before
    rest.append(nn.Tanh())
    assert [type(part).__name__ for part in rest] == ["ReLU", "Linear", "Tanh"]
    for name in ("a.b", "train", "", 3):
        with pytest.raises(ArgumentError, match="cannot name a part"):
            nn.Sequential({name: nn.ReLU()})


@pytest.mark.parametrize("kind", [nn.ModuleDict, nn.ParameterDict])
def test_dicts_do_what_dicts_do(kind: Any) -> None:
    def new() -> Any:
        return nn.Parameter([1.0]) if kind is nn.ParameterDict else linear()

    a, b, c = new(), new(), new()
    held = kind({"a": a, "b": b})
    held["c"] = c
    assert list(held) == held.keys() == ["a", "b", "c"]
    assert held.values() == [a, b, c] or all(p is q for p, q in zip(held.values(), [a, b, c], strict=True))
    assert dict(held.items())["b"] is held["b"] is held.b is b
    assert "a" in held
    assert "z" not in held
    assert len(held) == 3
    assert held.pop("a") is a
    del held["b"]
    assert not hasattr(held, "b")
    for act in (lambda: held["b"], lambda: held.__delitem__("b"), lambda: held.pop("b")):
        with pytest.raises(KeyError, match=f"{kind.__name__}: no item 'b', only c"):
            act()
    held.update([("d", a), ("c", b)])
    assert list(held) == ["c", "d"]
    assert held["c"] is b
    assert len(list(held.parameters())) == (2 if kind is nn.ParameterDict else 4)
    with pytest.raises(ArgumentError, match="cannot name a part"):
        held["keys"] = a
    with pytest.raises(ArgumentError, match=r"\['e'\] is 3, expected a"):
        held.update({"f": a, "e": 3})
    assert "f" not in held  # nothing of what was refused
    held.clear()
    assert not len(held)


def test_a_model_of_containers_learns() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList()
            for _ in range(2):
                self.layers.append(nn.Linear(4, 4, rng=np.random.default_rng(0)))
            self.heads = nn.ModuleDict({"out": nn.Linear(4, 1, rng=np.random.default_rng(1))})
            self.scales = nn.ParameterList([nn.Parameter([1.0])])

        def forward(self, x: Any) -> Any:
            for layer in self.layers:
                x = layer(x).tanh()
            return self.heads["out"](x) * self.scales[0]

    x = np.random.default_rng(0).normal(size=(16, 4)).astype("f")
    for compiled in (True, False):
        model = Model()
        before = model.state_dict()
        layers = ("layers.0", "layers.1", "heads.out")
        assert list(before) == [*(f"{layer}.{name}" for layer in layers for name in ("weight", "bias")), "scales.0"]
        optimiser = optim.SGD(model.parameters(), lr=0.1)
        train.fit(model, F.mse_loss, optimiser, (x, x[:, :1]), 5, progress=False, compile=compiled)
        assert all(not np.array_equal(before[name], after) for name, after in model.state_dict().items())
    with pytest.raises(TypeError, match=r"ModuleList does not define forward\(\)"):
        model.layers(x)


def test_a_compiled_step_sees_that_a_container_has_changed() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    step = tensorgrad.compile(lambda x: net(x).sum())
    x = np.ones((3, 2), "f")
    for act in (
        lambda: net.append(nn.Linear(2, 3)),
        lambda: net.__setitem__(1, nn.Tanh()),
        lambda: net.insert(0, nn.Linear(2, 2)),
        lambda: net.__delitem__(0),
        lambda: net.pop(),
    ):
        for _ in range(3):
            np.testing.assert_allclose(step(x).data, net(x).sum().data, rtol=1e-6)
        assert not step.why_not
        act()
        np.testing.assert_allclose(step(x).data, net(x).sum().data, rtol=1e-6)
