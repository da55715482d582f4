"""What a failed check says of its cause: when it is worked out, of what, and scripts that can be run elsewhere."""

from __future__ import annotations

import copy
import os
import pickle
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import tensorgrad
from tensorgrad import Tensor, fusion, nn
from tensorgrad.nn import functional as F
from tensorgrad.op import REGISTRY, Op
from tensorgrad.testing import GradientError, check_model, gradcheck, suspects
from tensorgrad.testing.strategies import values

X = np.array([[0.5, -1.0], [0.25, 2.0]])


@contextmanager
def wrong(name: str, factor: float = 1.5) -> Iterator[None]:
    """The gradients of an op times a factor, inside of the block."""
    op = type(REGISTRY[name])
    original = op.backward

    def rule(self: Op, *args: Any, **attrs: Any) -> Any:
        return tuple(None if part is None else (lambda part=part: part() * factor) for part in original(self, *args, **attrs))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(op, "backward", rule)
        yield


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> list[Op]:
    """The ops that have been checked on their own."""
    checked: list[Op] = []
    original = suspects.check_op

    def counted(op: Op, *args: Any, **how: Any) -> Any:
        checked.append(op)
        return original(op, *args, **how)

    monkeypatch.setattr(suspects, "check_op", counted)
    return checked


def failure(check: Callable[[], Any], name: str = "tanh") -> GradientError:
    with wrong(name), pytest.raises(GradientError) as caught:
        check()
    return caught.value


def model() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(2, 3, rng=np.random.default_rng(0)), nn.Tanh(), nn.Linear(3, 2, rng=np.random.default_rng(1))
    )


def test_nothing_is_searched_for_before_it_is_asked_for(searches: list[Op]) -> None:
    with fusion.off():
        error = failure(lambda: check_model(model(), F.cross_entropy, X, np.array([0, 1])))
    assert searches == []
    assert error.graph is not None
    assert not error.report
    assert searches == []
    assert [node.op.name for node in error.suspects] == ["tanh"]
    done = len(searches)
    assert done > 1
    assert "The rule of tanh is wrong on its own" in str(error)
    assert error.script in str(error)
    assert len(searches) == done


def test_hypothesis_makes_a_failure_smaller_without_explanations(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {"raised": 0, "explained": 0}
    original = suspects.Evidence.explanation

    def explanation(self: suspects.Evidence) -> Any:
        counts["explained"] += 1
        return original(self)

    monkeypatch.setattr(suspects.Evidence, "explanation", explanation)

    @settings(database=None, derandomize=True, deadline=None, phases=[Phase.generate, Phase.shrink])
    @given(x=values((1,)))
    def test(x: np.ndarray) -> None:
        try:
            gradcheck(lambda x: x.sin() * 2, x)
        except GradientError:
            counts["raised"] += 1
            raise

    with wrong("sin"), pytest.raises(GradientError, match="The rule of sin is wrong on its own"):
        test()
    assert counts["raised"] > 5
    # Hypothesis asks for what it shows, and pytest.raises; older ones show each failure that they try again
    assert counts["explained"] <= (2 if hypothesis.__version_info__ >= (6, 150) else 20)


def test_it_speaks_of_the_point_of_the_failure() -> None:
    """Whatever becomes of the parameters, of the arrays, of the rules, and of the switches, until somebody asks."""
    net, x = model(), X.copy()
    outside = Tensor(np.array([1.0, 2.0]))
    with fusion.off():
        fn = lambda: check_model(net, lambda z, y: ((z * outside).tanh() - y).square().mean(), x, X)  # noqa: E731
        at_once, later, elsewhere = (failure(fn) for _ in range(3))
    with wrong("tanh"):
        expected = str(at_once)
    places = r"1\.tanh \(2, 3\), recorded at \S+py:\d+; tanh \(2, 2\), recorded at test_explanations.py:\d+"
    assert re.search(f"The rule of tanh is wrong on its own: {places}", expected)
    for p in net.parameters():
        p.data[...] = np.nan
    x[...] = outside.data[...] = np.nan
    assert str(later) == expected
    with tensorgrad.no_grad(), np.errstate(all="raise"), warnings.catch_warnings():
        warnings.simplefilter("error")
        assert str(elsewhere) == expected
    assert gradcheck(lambda x: x.tanh(), X)  # the rule is again what it was


def test_rules_that_come_from_a_parent() -> None:
    """They are put where they were while it is worked out, and taken away again."""
    op = REGISTRY["tanh"]
    error = failure(lambda: gradcheck(lambda x: x.tanh(), X))
    before = dict(vars(type(op)))
    assert [node.op for node in error.suspects] == [op]
    assert dict(vars(type(op))) == before

    class Parent(Op):
        """y = x"""

        signature = "()->()"

        def forward(self, xp: Any, x: Any) -> Any:
            return x * 1

        def backward(self, g: Any, y: Any, x: Any) -> Any:
            return (lambda: 2 * g,)

    child = type("Child", (Parent,), {"name": "child", "__doc__": "y = x"})()
    try:
        with pytest.raises(GradientError) as caught:
            gradcheck(child, X)
        Parent.backward = lambda self, g, y, x: (lambda: g,)
        assert [node.op for node in caught.value.suspects] == [child]
        assert "backward" not in vars(type(child))
        assert gradcheck(child, X)
    finally:
        del REGISTRY["child"]


def test_pickled_and_copied() -> None:
    def made() -> GradientError:
        error = failure(lambda: gradcheck(lambda x: x.tanh().sum(), X))
        error.add_note("a note")
        return error

    expected = str(made())
    assert "The smallest case found" in expected
    for how in (lambda error: pickle.loads(pickle.dumps(error)), copy.copy, copy.deepcopy):
        error = made()
        again = how(error)
        assert type(again) is GradientError
        assert str(again) == str(error) == expected
        assert again.script == error.script != ""
        assert again.__notes__ == ["a note"]
        assert str(again.report) == str(error.report)
    assert [node.op.name for node in copy.copy(made()).suspects] == ["tanh"]
    again = pickle.loads(pickle.dumps(made()))
    assert (again.graph, again.suspects) == (None, ())
    assert str(pickle.loads(pickle.dumps(GradientError("text")))) == "text"


def test_printing_never_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    error = failure(lambda: gradcheck(lambda x: x.tanh(), X))

    def broken(*args: Any) -> Any:
        raise RuntimeError("out of luck")

    monkeypatch.setattr(suspects, "suspects", broken)
    assert str(error) == f"{error.report}\n\nNo op could be singled out: RuntimeError: out of luck"
    assert (error.suspects, error.script) == ((), "")


def test_a_function_that_fails_when_called_once_more() -> None:
    """The check itself is over, and has something to say."""
    calls = 0
    last = sys.maxsize

    def fn(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == last:
            raise RuntimeError("out of luck")
        return x.tanh()

    assert failure(lambda: gradcheck(fn, X)).graph is not None
    last, calls = calls, 0
    error = failure(lambda: gradcheck(fn, X))
    assert calls == last
    assert error.graph is None
    assert str(error) == str(error.report)


# Scripts


OPS = '''
import math

import numpy as np

from tensorgrad.op import Op
from tensorgrad.testing import GradientError, gradcheck

FACTOR = 3.0
HALF = np.array(0.5)


def cubed(x):
    return x**3


class Cube(Op):
    """y = x³"""

    name, signature, reads = "cube", "()->()", "x"

    def forward(self, xp, x):
        return cubed(x) * math.sqrt(1.0)

    def backward(self, g, y, x):
        return (lambda: FACTOR * g * HALF * x * x,)
'''
CHECK = """
try:
    gradcheck(cube, np.array([1.0, 2.0]))
except GradientError as error:
    print(error.script)
"""
LINE = OPS.splitlines().index("class Cube(Op):") + 1


def run(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    path = folder / "it.py"
    path.write_text(script)
    return subprocess.run([sys.executable, str(path)], capture_output=True, text=True, check=False, cwd=folder, env=env)


def fails_alike(script: str, folder: Path) -> bool:
    """Whether a script, run in a folder of its own, ends in the numbers that it says it ends in."""
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    text = run(script, elsewhere).stderr
    recorded, numerical = re.search(r"recorded (\S+), numerical (\S+)$", script).groups()
    return bool(re.search(rf"GradientError: gradcheck: FAILED.*{recorded} +{numerical}$", text, re.MULTILINE | re.DOTALL))


@pytest.mark.every(3)
@pytest.mark.parametrize("module", ["myops", "mine.ops", "mine"])
def test_the_script_of_an_op_in_a_module(module: str, tmp_path: Path) -> None:
    file = tmp_path / (module.replace(".", "/") + ".py" if module != "mine" else "mine/__init__.py")
    file.parent.mkdir(exist_ok=True)
    file.write_text(OPS + "\n\ncube = Cube()\n")
    script = run(f"import numpy as np\nfrom {module} import *\n{CHECK}", tmp_path).stdout.strip()
    assert f"import {module}  # where cube is defined: {file.name}, line {LINE}\n" in script
    assert fails_alike(script, tmp_path)


def test_the_script_of_an_op_in_a_script(tmp_path: Path) -> None:
    """Its class is written out, with what it uses; a module that is imported would run the check again."""
    script = run(f"{OPS}\n\ncube = Cube()\n{CHECK}", tmp_path).stdout.strip()
    assert "class Cube(Op):" in script
    assert f"# from it.py, line {LINE}" in script
    assert fails_alike(script, tmp_path)


@pytest.mark.every(2)
@pytest.mark.parametrize("where", ["it", "myops"])
def test_the_script_of_an_op_that_a_function_makes(where: str, tmp_path: Path) -> None:
    """There is nothing to import: it says which file the class stands in."""
    made = OPS.replace("class Cube", "def made():\n  class Cube").partition("def made():\n")
    text = made[0] + made[1] + "\n".join(f"  {line}" for line in made[2].strip().splitlines()) + "\n\n  return Cube()\n"
    text = text.replace("    class Cube", "  class Cube")
    (tmp_path / "myops.py").write_text(text)
    begin = text if where == "it" else "from myops import *"
    script = run(f"import numpy as np\n{begin}\ncube = made()\n{CHECK}", tmp_path).stdout
    assert re.search(rf"^# here the class of cube, from {where}.py, line \d+$", script, re.MULTILINE), script


def test_the_script_of_an_installed_op() -> None:
    assert failure(lambda: gradcheck(lambda x: x.tanh(), X)).script.splitlines()[:3] == [
        "import numpy as np",
        "from tensorgrad.op import REGISTRY",
        "from tensorgrad.testing import gradcheck",
    ]


@given(x=values((2,)), factor=st.sampled_from([0.5, 1.001, -1.0]))
@settings(max_examples=5)
def test_scripts_fail_as_they_say(x: np.ndarray, factor: float) -> None:
    with wrong("sin", factor):
        with pytest.raises(GradientError) as caught:
            gradcheck(lambda x: x.sin() + x, x)
        script = caught.value.script
        with pytest.raises(GradientError) as again:
            exec(script, {})
    f = again.value.report.failed[0]
    assert script.endswith(f"recorded {f.recorded:.9g}, numerical {f.numerical:.9g}")
