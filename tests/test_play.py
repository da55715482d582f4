"""Stepping through a backward pass: each number that is shown is the recorded one, in the steps and in a real Chromium."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tensorgrad
from tensorgrad import Tensor, draw, nn
from tensorgrad.draw import letters
from tensorgrad.draw.play import WRITTEN
from tensorgrad.draw.steps import Step, steps_of
from tensorgrad.errors import ArgumentError, GraphError, MissingDependencyError
from tensorgrad.nn import functional as F
from tests.strategies import generators
from tests.test_page import browser  # noqa: F401  # a fixture

Program = Callable[[np.random.Generator, Any], Tensor]


def leaf(rng: np.random.Generator, name: str, *shape: int, dtype: Any = np.float64) -> Tensor:
    return Tensor(rng.normal(size=shape).astype(dtype), requires_grad=True, name=name)


def two_layers(rng: np.random.Generator, dtype: Any) -> Tensor:
    x = Tensor(rng.normal(size=(3, 2)).astype(dtype), name="x")
    w1, b1, w2 = leaf(rng, "W1", 2, 4, dtype=dtype), leaf(rng, "b1", 4, dtype=dtype), leaf(rng, "W2", 4, 2, dtype=dtype)
    h = (x @ w1 + b1).relu()
    return F.cross_entropy(h @ w2 * 0.5 + (h * h).mean(), np.array([0, 1, 1]))


def reused(rng: np.random.Generator, dtype: Any) -> Tensor:
    u = leaf(rng, "u", 4, dtype=dtype)
    return (u * u + u.exp() - 2 / (1 + u**2)).sum() * u[1]


def module(rng: np.random.Generator, dtype: Any) -> Tensor:
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.LayerNorm(5), nn.Linear(5, 1)).to(dtype=dtype)
    return F.mse_loss(model(rng.normal(size=(4, 3)).astype(dtype)), rng.normal(size=(4, 1)).astype(dtype))


def dropped(rng: np.random.Generator, dtype: Any) -> Tensor:
    w = leaf(rng, "w", 5, 4, dtype=dtype)
    return (nn.Dropout(0.5)(w) ** 2).sum()


def convolved(rng: np.random.Generator, dtype: Any) -> Tensor:
    image = Tensor(rng.normal(size=(1, 1, 6, 6)).astype(dtype), name="image")
    return F.max_pool2d(F.conv2d(image, leaf(rng, "K", 2, 1, 3, 3, dtype=dtype)), 2).sum()


def joined(rng: np.random.Generator, dtype: Any) -> Tensor:
    a, b = leaf(rng, "a", 2, 3, dtype=dtype), leaf(rng, "b", 3, dtype=dtype)
    both = tensorgrad.concatenate([a, b.reshape(1, 3).detach(), tensorgrad.where(a > 0, a, b)], axis=0)
    return both.softmax(axis=-1).max(axis=0).sum() + a.detach().sum()


PROGRAMS: dict[str, Program] = {f.__name__: f for f in (two_layers, reused, module, dropped, convolved, joined)}


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
@pytest.mark.parametrize("name", PROGRAMS)
@given(rng=generators())
def test_every_value_and_gradient_is_the_recorded_one(name: str, dtype: Any, rng: np.random.Generator) -> None:
    """Bit for bit those of the program as it was written; its graph and the gradients of the user's stay as they are."""
    loss = PROGRAMS[name](rng, dtype)
    program, values, steps = steps_of(loss)
    assert values[loss.node].tobytes() == loss.numpy().tobytes()
    assert [s.node for s in steps if s.is_forward] == list(program.nodes)
    shown: dict[Any, Any] = {loss.node: np.ones(loss.shape, loss.dtype)}
    for step in steps:
        if not step.is_forward:
            assert step.gradient is not None
            assert step.gradient.tobytes() == shown[step.node].tobytes()
            for part in step.contributions:
                before = shown.get(part.source)
                assert part.total.tobytes() == (part.added if before is None else before + part.added).tobytes()
                shown[part.source] = part.total
    leaves = [t for t in program.leaves if t.requires_grad]
    with tensorgrad.fusion.off():
        expected = tensorgrad.grad(loss, leaves, retain_graph=True)
    # in float16 summed in float32 by the walk, and rounded once; here after each use, by as much as what is added is large
    half = 4e-3 if dtype is np.float16 else 0
    for t, g in zip(leaves, expected, strict=True):
        np.testing.assert_allclose(shown[t], g.numpy(), rtol=half, atol=half * max(abs(g.numpy()).max(initial=0), 1))
    assert all(t.grad is None for t in leaves)
    loss.backward()  # nothing was let go of


def test_what_is_drawn_at_random_is_what_was_drawn() -> None:
    rng = np.random.default_rng(0)
    loss = dropped(rng, np.float64)
    first, second = steps_of(loss)[1], steps_of(loss)[1]
    assert first[loss.node] == second[loss.node] == loss.numpy()


def operands(step: Step, names: dict[Any, str]) -> list[str]:
    return [names.get(i, f"{i:g}" if isinstance(i, float) else str(i)) for i in step.node.inputs]


def test_formulas_have_the_names_of_the_program() -> None:
    rng = np.random.default_rng(0)
    program, _, steps = steps_of(two_layers(rng, np.float64))
    names = dict(program.leaf_names()) | {node: f"v{i + 1}" for i, node in enumerate(program.nodes)}
    forward = [letters.forward_formula(s.node, operands(s, names), names[s.node]) for s in steps if s.is_forward]
    assert forward[:6] == ["v1 = x · W1", "v2 = v1 + b1", "v3 = max(v2, 0)", "v4 = v3 · W2", "v5 = v4 · 0.5", "v6 = v3 · v3"]
    last = steps[-1]
    assert letters.backward_formulas(last.node, operands(last, names), names[last.node]) == ["∂L/∂v1 · W1ᵀ", "xᵀ · ∂L/∂v1"]
    relu = next(s for s in steps if s.node.op.name == "relu" and not s.is_forward)
    assert letters.backward_formulas(relu.node, operands(relu, names), "v3") == ["∂L/∂v3 * [v3 > 0]"]


def test_names_stand_in_the_place_of_each_ops_letters() -> None:
    for op in tensorgrad.op.REGISTRY.values():
        own = re.findall(r"(?:^|[\s,])[gd]([A-Za-z]\w*) =", op.formula("backward"), re.MULTILINE)
        by = {letter: f"NAME{i}" for i, letter in enumerate(own)} | {"g": "∂L/∂v"}
        for letter in own:
            text = letters.substituted(f"g {letter} + f({letter}, 2) - {letter}ᵀ g", by)
            name = by[letter]
            assert text == f"∂L/∂v · {name} + f({name}, 2) - {name}ᵀ · ∂L/∂v"


def written(x: Any) -> float:
    return float(str(x).replace("−", "-").replace("∞", "inf"))


@pytest.mark.parametrize("name", ["two_layers", "reused", "joined"])
def test_stepping_through_in_a_browser(name: str, browser: Any, tmp_path: Path) -> None:  # noqa: F811
    """By the key →, all the way: each number in the drawing and beside it is the recorded one, rounded as it is written."""
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys

    loss = PROGRAMS[name](np.random.default_rng(1), np.float64)
    program, values, steps = steps_of(loss)
    browser.get(draw.play(loss, title="a & <b>").save(tmp_path / "play.html").as_uri())
    assert browser.find_element("id", "title").text == "a & <b>"
    data = json.loads(re.search(r"const DATA = (\{.*\});\n", (tmp_path / "play.html").read_text())[1])
    ids = [box["id"] for box in data["boxes"]]
    order = [*program.leaf_names(), *program.nodes]
    assert len(ids) == len(order)
    known: dict[Any, Any] = {t: values[t] for t in program.leaves}
    gradients: dict[Any, Any] = {}
    for k, step in enumerate([None, *steps]):
        if step is not None:
            ActionChains(browser).send_keys(Keys.ARROW_RIGHT).perform()
            if step.is_forward:
                known[step.node] = step.value
            else:
                gradients |= {part.source: part.total for part in step.contributions}
        if k == len(program.nodes):
            gradients[loss.node] = np.ones(())
        assert browser.find_element("id", "count").text == f"step {k} of {len(steps)}"
        drawn = browser.execute_script(
            """const read = t => [t.dataset.number, t.textContent];
            const numbers = (b, kind) => [...b.querySelectorAll("." + kind + " .number")].map(read);
            const both = b => [b.id, [numbers(b, "value"), numbers(b, "gradient")]];
            return Object.fromEntries([...document.querySelectorAll(".box")].map(both));"""
        )
        for box, what in zip(ids, order, strict=True):
            for found, expected in zip(drawn[box], (known.get(what), gradients.get(what)), strict=True):
                if expected is None or np.size(expected) > WRITTEN:
                    assert found == []
                    continue
                exact = [written(number) for number, _ in found]
                np.testing.assert_array_equal(exact, np.ravel(expected).astype(float))
                np.testing.assert_allclose([written(text) for _, text in found], exact, rtol=5.1e-2)
        cells = browser.execute_script(
            "return [...document.querySelectorAll('#told td')].map(c => [c.dataset.number, c.textContent]);"
        )
        np.testing.assert_allclose([written(t) for _, t in cells], [written(n) for n, _ in cells], rtol=6e-3)
        if step is not None and not step.is_forward and step.contributions:
            shown = {written(n) for n, _ in cells}
            for part in step.contributions:
                assert {float(v) for v in np.ravel(part.total)} <= shown
    assert browser.get_log("browser") == []


def test_buttons_and_clicks(browser: Any, tmp_path: Path) -> None:  # noqa: F811
    loss = two_layers(np.random.default_rng(0), np.float64)
    playback = draw.play(loss)
    browser.get(playback.save(tmp_path / "play.html").as_uri() + "#3")
    count = lambda: browser.find_element("id", "count").text  # noqa: E731
    assert count() == "step 3 of 20"
    for button, expected in {"next": 4, "back": 3, "turn": 11, "last": 20, "first": 0}.items():
        browser.find_element("id", button).click()
        assert count() == f"step {expected} of 20"
    assert not browser.find_element("id", "back").is_enabled()
    box = next(b for b in browser.find_elements("css selector", ".box") if "v2 = v1 + b1" in b.text)
    box.find_element("css selector", "rect").click()
    assert count() == "step 2 of 20"
    assert "Forward: v2" in browser.find_element("id", "told").text
    browser.execute_script("show(20)")
    box.find_element("css selector", "rect").click()
    assert "Backward through v2" in browser.find_element("id", "told").text
    assert "b1 was repeated to fit" in browser.find_element("id", "told").text
    assert browser.get_log("browser") == []


def test_large_arrays_are_shown_by_heat_and_statistics(browser: Any, tmp_path: Path) -> None:  # noqa: F811
    rng = np.random.default_rng(0)
    w = leaf(rng, "w", 50, 40)
    w.data[3, 4] = np.nan
    browser.get(draw.play((w * 2).max(axis=0).sum()).save(tmp_path / "play.html").as_uri())
    (box,) = [b for b in browser.find_elements("css selector", ".box") if b.text.startswith("w")]
    values = w.numpy()[np.isfinite(w.numpy())]
    words = box.text.replace("−", "-")
    for number in (values.min(), values.max(), values.mean()):
        assert f"{float(f'{number:.3g}'):g}" in words or f"{number:.1e}" in words
    assert "1 not finite" in words
    assert len(box.find_elements("css selector", ".value rect")) == 24 * 24
    assert browser.get_log("browser") == []


def test_a_playback_in_a_notebook_and_as_text() -> None:
    playback = draw.play(reused(np.random.default_rng(0), np.float64))
    forward = sum(step.is_forward for step in playback.steps)
    assert repr(playback).startswith(f"<Playback of {forward} operations and {len(playback.steps) - forward} rules")
    assert playback._repr_html_().startswith("<iframe srcdoc=")
    addresses = set(re.findall(r"https?://[\w./]+", playback.html))
    assert addresses == {"http://www.w3.org/2000/svg"}  # a name, not a place
    assert "default-src 'none'" in playback.html


@given(name=st.text(st.characters(codec="utf-8"), max_size=12))
def test_names_end_no_script(name: str) -> None:
    w = Tensor([1.0, 2.0], requires_grad=True, name=f"</script>{name}")
    page = draw.play((w * w).sum(), title=f"</script>{name}").html
    assert page.count("</script>") == 1


def test_names_that_several_have_are_told_apart() -> None:
    a, b = Tensor([1.0], requires_grad=True, name="v1"), Tensor([2.0], requires_grad=True, name="v1")
    page = draw.play((a * b * b).sum()).html
    names = [box["name"] for box in json.loads(re.search(r"const DATA = (\{.*\});\n", page)[1])["boxes"]]
    assert len(set(names)) == len(names) == 5
    assert names[:2] == ["v1", "v1#2"]


W = Tensor([[1.0, 2.0]], requires_grad=True)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: draw.play(3), GraphError, "draw.play: expected a Tensor, got"),  # type: ignore[arg-type]
        (lambda: draw.play(W), GraphError, "draw.play: the Tensor was not computed from anything that requires a gradient"),
        (lambda: draw.play(W * 2), GraphError, "draw.play: the Tensor has shape (1, 2), expected a 0-d Tensor; reduce it with"),
        (lambda: draw.play(sum((W * i for i in range(200)), W).sum()), GraphError, "operations, expected at most 300"),
        (lambda: draw.play((W * 2).sum()).save("a.svg"), ArgumentError, "Playback.save: expected a .html file, got 'a.svg'"),
    ],
)
def test_mistakes(call: Callable[[], Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=re.escape(message)):
        call()


def test_without_graphviz(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setitem(sys.modules, "pygraphviz", None)
    with pytest.raises(MissingDependencyError, match="drawing a graph needs Graphviz: pip install pygraphviz"):
        draw.play((W * 2).sum())
