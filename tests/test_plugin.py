"""The pytest plugin, in runs of pytest of its own: drawings of failures, the line that reproduces them, profiles."""

from __future__ import annotations

import re
import shutil

import pytest

from tensorgrad.draw.colours import MARKS

FAILING = '''
import numpy as np
from hypothesis import given
from tensorgrad.op import REGISTRY, Op
from tensorgrad.testing import gradcheck
from tensorgrad.testing.strategies import values


class Cube(Op):
    """y = x³"""

    name, signature, reads = "cube", "()->()", "x"

    def forward(self, xp, x):
        return x**3

    def backward(self, g, y, x):
        return (lambda: 2 * g * x * x,)


cube = Cube()


@given(x=values((2,)))
def test_cube(x):
    gradcheck(lambda x: cube(x).exp().sum(), x)
'''


def test_a_failure_leaves_its_drawing(pytester: pytest.Pytester) -> None:
    if not shutil.which("dot"):
        pytest.importorskip("pygraphviz", reason="needs pygraphviz: pip install pygraphviz")
    pytester.makepyfile(test_cube=FAILING)
    result = pytester.runpytest_subprocess("--hypothesis-profile=dev")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*The rule of cube is wrong on its own: cube (2,), recorded at test_cube.py:*"])
    text = result.stdout.str()
    assert re.search(r"@reproduce_failure\('[\d.]+', b'\w+", text)
    assert "gradcheck(fn, x)" in text  # the script
    path = pytester.path / "gradient-drawings" / "test_cube.py-test_cube.svg"
    assert f"drawing of the graph: {path}" in text
    svg = path.read_text()
    red = re.findall(rf'<polygon fill="{MARKS["highlight"].fill}".*?</g>', svg, re.DOTALL)
    assert len(red) == 1
    assert ">cube<" in red[0]
    assert ">exp<" in svg


@pytest.mark.thorough
def test_the_folder_of_the_drawings(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_cube=FAILING)
    pytester.runpytest_subprocess("--junitxml=reports/junit.xml")
    assert (pytester.path / "reports" / "test_cube.py-test_cube.svg").exists()
    result = pytester.runpytest_subprocess("--gradient-drawings=here")
    assert (pytester.path / "here" / "test_cube.py-test_cube.svg").exists()
    assert "@reproduce_failure" in result.stdout.str()  # with the default profile too


@pytest.mark.thorough
def test_without_graphviz_it_leaves_the_dot_file(pytester: pytest.Pytester) -> None:
    pytester.makeconftest("import shutil, sys\nsys.modules['pygraphviz'] = None\nshutil.which = lambda name: None\n")
    pytester.makepyfile(test_cube=FAILING)
    pytester.runpytest_subprocess().assert_outcomes(failed=1)
    assert "cube" in (pytester.path / "gradient-drawings" / "test_cube.py-test_cube.dot").read_text()


@pytest.mark.thorough
def test_nothing_is_left_by_tests_that_pass_or_fail_otherwise(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_a(): pass\ndef test_b(): assert 0")
    pytester.runpytest_subprocess().assert_outcomes(passed=1, failed=1)
    assert not (pytester.path / "gradient-drawings").exists()


def test_profiles(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        from hypothesis import settings

        def test_profiles():
            found = {name: settings.get_profile(name) for name in ("dev", "thorough", "ci")}
            assert {name: profile.max_examples for name, profile in found.items()} == {"dev": 40, "thorough": 2000, "ci": 100}
            assert all(profile.print_blob for profile in found.values())
            assert settings().max_examples == 2000
        """
    )
    pytester.runpytest_subprocess("--hypothesis-profile=thorough").assert_outcomes(passed=1)


@pytest.mark.thorough
def test_a_conftest_can_load_a_profile_or_have_its_own(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        "from hypothesis import settings\nsettings.load_profile('thorough')\nsettings.register_profile('dev', max_examples=3)\n"
    )
    pytester.makepyfile(
        "from hypothesis import settings\n"
        "def test_profile(): assert (settings().max_examples, settings.get_profile('dev').max_examples) == (2000, 3)\n"
    )
    pytester.runpytest_subprocess().assert_outcomes(passed=1)


PASTED = '''
import numpy as np
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from tensorgrad.testing import check_model
from tensorgrad.testing.strategies import batches, mlps


def loss(z, y):
    """Of the samples of class 1 the gradient is half of what it should be."""
    picked = z.log_softmax(-1)[np.arange(len(y)), y]
    share = np.where(y == 1, 0.5, 1.0)
    return -(picked * share + picked.detach() * (1 - share)).mean()


@settings(database=None, derandomize=True, deadline=None, phases=[Phase.generate], report_multiple_bugs=False)
@given(model=mlps(features=2, classes=2, max_width=3), data=batches(features=2, classes=2), extra=st.lists(st.integers()))
def test_gradients(model, data, extra):
    check_model(model, loss, *data)
'''


@pytest.mark.thorough
def test_the_example_that_is_printed_can_be_pasted(pytester: pytest.Pytester) -> None:
    """It fails as the test did; weights and data are the same to the last digit."""
    pytester.makepyfile(test_model=PASTED)
    text = pytester.runpytest_subprocess().stdout.str()
    printed = r"^E +(?:Failing test case|Falsifying example): test_gradients(\(.*?^E +\))"
    arguments = re.search(printed, text, re.MULTILINE | re.DOTALL)
    assert arguments, text
    call = re.sub(r"^E +", "", arguments[1], flags=re.MULTILINE)
    assert re.search(r"model=nn\.Sequential\(nn\.Linear\(2, \d, rng=np\.random\.default_rng\(\d+\)\)", call), call
    lines = ["import numpy as np", "from tensorgrad import nn", "from test_model import test_gradients"]
    script = "\n".join([*lines, f"test_gradients.hypothesis.inner_test{call}", ""])
    path = pytester.makepyfile(pasted=script)
    again = pytester.runpython(path).stderr.str()
    rows = re.findall(r"^\d\.\w+ .* wrong .*$", again, re.MULTILINE)
    assert rows
    for row in rows:
        assert row in text
