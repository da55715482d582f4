"""The page of a watched training: its numbers are those of the samples, and what it does when it is used, in Chromium."""

from __future__ import annotations

import contextlib
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorgrad
from tensorgrad import nn, optim, train
from tensorgrad.errors import ArgumentError, TrainingError
from tensorgrad.nn import functional as F
from tensorgrad.train.watched import MEASURES
from tests.test_draw import EVIL
from tests.test_page import browser  # noqa: F401  # a fixture

RNG = np.random.default_rng(0)
X = RNG.normal(size=(96, 5)).astype(np.float32)
Y = (X[:, 0] > 0).astype(int)


def watched(model: nn.Module, lr: float = 0.01, epochs: int = 3) -> train.Watch:
    watch = train.Watch(every=2, share=1.0)
    adam = optim.Adam(model.parameters(), lr=lr)
    with np.errstate(all="ignore"), contextlib.suppress(TrainingError):
        train.fit(model, F.cross_entropy, adam, (X, Y), epochs, callbacks=[watch], progress=False)
    return watch


def dead() -> nn.Module:
    tensorgrad.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 2))
    model[0].bias.data[:4] = -100
    return model


def data_of(path: Path) -> Any:
    return json.loads(re.search(r"const DATA = (\{.*\});\n", path.read_text())[1])


def test_the_numbers_are_those_of_the_samples(tmp_path: Path) -> None:
    watch = watched(dead())
    data = data_of(watch.save(tmp_path / "watch.html"))
    boxes = {box["lines"][0].split(" ")[0]: box for box in data["picture"]["boxes"]}
    assert {key: (box["layers"], box["weights"]) for key, box in boxes.items()} == {
        "x": ([], []),
        "0": (["0 linear"], ["0.weight", "0.bias"]),
        "1": (["1 relu"], []),
        "2": (["2 linear"], ["2.weight", "2.bias"]),
        "3": (["3 tanh"], []),
        "4": (["4 linear"], ["4.weight", "4.bias"]),
    }
    assert len(data["samples"]) == len(watch.samples) > 1
    for shown, sample in zip(data["samples"], watch.samples, strict=True):
        assert (shown["step"], shown["epoch"], shown["loss"]) == (sample.step, sample.epoch, sample.loss)
        of = shown["of"]
        for name, layer in sample.layers.items():
            assert of["value"][name] == layer.value.rms
            assert of["mean"][name] == layer.value.mean
            assert of["std"][name] == layer.value.std
            assert of["zeros"][name] == layer.value.zeros
            assert of["dead"][name] == layer.dead
            assert of["saturated"][name] == layer.saturated
            assert of["gradient"][name] == layer.gradient.rms
        for name, weights in sample.weights.items():
            assert of["weight"][name] == weights.value.rms
            assert of["weight gradient"][name] == weights.gradient.rms
            assert of["ratio"].get(name, math.nan) == pytest.approx(weights.ratio, nan_ok=True)
    assert [f["text"] for f in data["samples"][-1]["findings"]] == watch.findings()
    (relu,) = (f for f in data["samples"][-1]["findings"] if f["text"].startswith("1 relu"))
    assert relu["box"] == boxes["1"]["id"]


def test_every_measure_is_there_for_some_box(tmp_path: Path) -> None:
    data = data_of(watched(dead()).save(tmp_path / "watch.html"))
    assert set(data["measures"]) == set(MEASURES) == set(data["samples"][0]["of"])
    assert all(any(sample["of"][measure] for sample in data["samples"]) for measure in MEASURES)


def test_blocks_that_are_drawn_once_have_the_numbers_of_all(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(5, 4), *(nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(6)), nn.Linear(4, 2))
    data = data_of(watched(model).save(tmp_path / "watch.html"))
    (block,) = (box for box in data["picture"]["boxes"] if len(box["weights"]) > 2)
    assert block["layers"] == [f"{i}.0 linear" for i in range(1, 7)]
    assert len(block["weights"]) == 12


def test_in_a_browser(browser: Any, tmp_path: Path) -> None:  # noqa: F811
    watch = watched(dead())
    browser.get(watch.save(tmp_path / "watch.html").as_uri())

    def status() -> str:
        return browser.find_element("id", "now").text

    def go_to(i: int) -> None:
        browser.execute_script("const s = byId('step'); s.value = arguments[0]; s.dispatchEvent(new Event('input'))", i)

    def choose(measure: str) -> None:
        browser.find_element("css selector", f'#measure option[value="{measure}"]').click()

    last = watch.samples[-1]
    assert status().startswith(f"step {last.step} · epoch {last.epoch} · loss ")
    assert len(browser.find_elements("css selector", ".box")) == 6
    # a finding leads to its box, whose numbers are those of the sample
    finding = next(e for e in browser.find_elements("css selector", "#findings li") if e.text.startswith("1 relu"))
    finding.click()
    (chosen,) = browser.find_elements("css selector", ".box.chosen")
    assert chosen.text.startswith("1 · ReLU")
    go_to(0)
    assert status().startswith("step 0 · epoch 1 · ")
    rows = browser.find_elements("css selector", "#table tr")
    told = {a.text: b.text for a, b in (row.find_elements("tag name", "td") for row in rows)}
    first = watch.samples[0].layers["1 relu"]
    assert float(told["values, root mean square"]) == pytest.approx(first.value.rms, rel=6e-3)
    assert float(told["share of dead units"]) == pytest.approx(first.dead, rel=6e-3)
    assert float(told["share of values that are 0"]) == pytest.approx(first.value.zeros, rel=6e-3)
    # darker is more
    choose("dead")
    fills = {
        box.text.split("\n")[0]: box.find_element("tag name", "rect").value_of_css_property("fill")
        for box in browser.find_elements("css selector", ".box")
    }
    assert sum(map(int, re.findall(r"\d+", fills["1 · ReLU"])[:3])) < sum(map(int, re.findall(r"\d+", fills["3 · Tanh"])[:3]))
    # parameters are what this one is of, which an activation has none of
    choose("ratio")
    bare = {box.text.split("\n")[0] for box in browser.find_elements("css selector", ".box.bare")}
    assert bare == {"x", "1 · ReLU", "3 · Tanh"}
    browser.find_element("id", "play").click()
    browser.implicitly_wait(0)
    for _ in range(200):
        if status().startswith(f"step {last.step} "):
            break
        browser.execute_async_script("setTimeout(arguments[0], 50)")
    assert status().startswith(f"step {last.step} ")
    assert browser.get_log("browser") == []


def test_what_is_not_finite_stands_out(browser: Any, tmp_path: Path) -> None:  # noqa: F811
    class Blows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(5, 10), nn.Linear(10, 2)

        def forward(self, x: Any) -> Any:
            return self.last((self.first(x) * 1000).exp())

    watch = watched(Blows())
    browser.get(watch.save(tmp_path / "watch.html").as_uri())
    browser.find_element("css selector", '#measure option[value="value"]').click()
    bad = browser.find_elements("css selector", ".box.bad")
    assert {box.text.split("\n")[0].split(" ")[0] for box in bad} & {"exp", "last"}
    assert "not finite" in browser.find_element("id", "findings").text
    assert browser.get_log("browser") == []


def test_what_is_not_finite_is_said_at_each_step_from_the_first(tmp_path: Path) -> None:
    watch = train.Watch(every=1, share=1.0)
    model = dead()
    with np.errstate(all="ignore"), contextlib.suppress(TrainingError):
        sgd = optim.SGD(model.parameters(), lr=1e30)
        train.fit(model, F.cross_entropy, sgd, (X, Y), 3, callbacks=[watch], progress=False)
    said = [[f["text"] for f in sample["findings"]] for sample in data_of(watch.save(tmp_path / "watch.html"))["samples"]]
    assert "not finite" not in " ".join(said[0])
    for texts in said[1:]:
        (text,) = texts  # and nothing that is only a consequence
        assert "not finite at step 1 (epoch 2)" in text or "not finite at step 1 (epoch 1)" in text


def test_a_model_that_returns_more_than_one_tensor(tmp_path: Path) -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.head = nn.Linear(5, 4), nn.Linear(4, 2)

        def forward(self, x: Any) -> Any:
            h = self.fc(x).tanh()
            return self.head(h), {"hidden": h}

    watch = train.Watch(every=1, share=1.0)
    model = Both()
    sgd = optim.SGD(model.parameters(), lr=0.1)
    train.fit(model, lambda z, y: F.cross_entropy(z[0], y), sgd, (X, Y), 2, callbacks=[watch], progress=False)
    data = data_of(watch.save(tmp_path / "watch.html"))
    assert {name for box in data["picture"]["boxes"] for name in box["weights"]} == set(model.state_dict())


def test_names_end_no_script(browser: Any, tmp_path: Path) -> None:  # noqa: F811
    model = nn.Module()
    setattr(model, EVIL, nn.Linear(5, 2))
    model.forward = lambda x: getattr(model, EVIL)(x)
    path = watched(model).save(tmp_path / "watch.html")
    assert path.read_text().count("</script") == 1
    browser.get(path.as_uri())
    assert any(EVIL in box.get_property("textContent") for box in browser.find_elements("css selector", ".box"))
    assert browser.get_log("browser") == []


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"^Watch\.save: expected a \.html file, got 'watch\.svg'"):
        train.Watch().save(tmp_path / "watch.svg")
    with pytest.raises(ArgumentError, match=r"^Watch\.save: there is no sample yet; train with this callback first"):
        train.Watch().save(tmp_path / "watch.html")


def test_findings_of_neighbours_are_one_line_that_opens(browser: Any, tmp_path: Path) -> None:  # noqa: F811
    tensorgrad.manual_seed(0)
    deep = [layer for _ in range(20) for layer in (nn.Linear(4, 4), nn.Sigmoid())]
    watch = watched(nn.Sequential(nn.Linear(5, 4), *deep, nn.Linear(4, 2)), epochs=1)
    said = watch.findings()
    assert len(said) > 20
    browser.get(watch.save(tmp_path / "watch.html").as_uri())
    top = browser.find_elements("css selector", "#findings > li")
    assert len(top) < 5
    assert "vanishes" in top[0].text
    for summary in browser.find_elements("css selector", "#findings summary"):
        summary.click()
    each = browser.find_elements("css selector", "#findings li:not(:has(details))")
    assert [e.text for e in each] == said
    box = each[3].get_attribute("data-box")
    each[3].click()
    assert box == browser.execute_script("return chosen")
    assert browser.find_elements("css selector", "#findings details[open]")
    assert browser.get_log("browser") == []
