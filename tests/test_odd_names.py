"""Names of unknown origin in everything that writes names: drawn with what is odd in them escaped, or refused at once."""

from __future__ import annotations

import csv
import html
import json
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorgrad
from tensorgrad import Tensor, data, draw, nn, optim, train
from tensorgrad.core.table import visible
from tensorgrad.draw.dot import to_dot
from tensorgrad.draw.render import render
from tensorgrad.draw.scene import Box, Scene
from tensorgrad.errors import ArgumentError, DataError, TensorgradError
from tensorgrad.graph import Graph
from tensorgrad.nn import functional as F

NAMES = [
    *("\0", "a\x01\x1b[31m", "\x7f", "a\nb", "\r\n", "\tx", "\x85"),
    *("\ud800", "x\udc80", "\u202eab", "\u200f", "\u2028", "\ufeff", "\uffff", "\U000e0041"),
    *('"', "'", '"];x[label="', "</script>", "<b>x</b>", "<", "&lt;&amp;", "]]>", "--> x", "%%{init}%%", "`", "|", "#35;"),
    *("\\", "\\N\\G", "\\n", "a\\", "$x$", "$", "a{b}", "}", "a_b^c~d", "#%&", "=1+1", "a,b;c", " ", "  x "),
    *("é", "日本", "😀", "ﷺ", "__proto__", "a/b", "x" * 3000),
]
IDS = [ascii(name)[1:21] for name in NAMES]


def one_line(text: str) -> bool:
    """Whether nothing in a text moves the cursor, turns the direction or cannot be encoded."""
    return text.isprintable()


def loss_of(name: str) -> Tensor:
    return (Tensor(np.ones((2, 3)), requires_grad=True, name=name) * 2).exp().sum()


def as_svg(name: str, path: Path) -> list[str]:
    found = ET.fromstring(draw.graph(loss_of(name), title=name).save(path / "a.svg").read_text("utf-8"))
    return [text for element in found.iter() if element.tag.endswith("text") and (text := element.text)]


def as_dot(name: str, path: Path) -> list[str]:
    text = draw.graph(loss_of(name), title=name).save(path / "a.dot").read_text("utf-8")
    assert not any(c < " " and c not in "\n\t" for c in text)
    assert not any(line.lstrip().startswith("label=<") or "[label=<" in line for line in text.splitlines())
    return re.split(r'\\n|"', text.replace("\\\\", "\0"))


def as_html(name: str, path: Path) -> list[str]:
    page = draw.graph(loss_of(name), title=name).save(path / "a.html").read_text("utf-8")
    plain = draw.graph(loss_of("x"), title="x").save(path / "b.html").read_text("utf-8")
    assert page.count("</script") == plain.count("</script")
    assert page.count("<") == plain.count("<")
    (line,) = [line for line in page.splitlines() if '"boxes"' in line]
    views = json.loads(line[line.index("{") : line.rindex("}") + 1])
    return [line for view in views["views"].values() for box in view["boxes"] for line in box["lines"]]


def as_mermaid(name: str, path: Path) -> list[str]:
    text = draw.graph(loss_of(name)).to_mermaid()
    lines = re.findall(r'"(.*?)"', text)
    assert all(re.fullmatch(r"    \w+ *[\[\(-].*|flowchart TB|    classDef .*", line) for line in text.rstrip("\n").split("\n"))
    return [html.unescape(re.sub(r"#(\d+);", r"&#\1;", part)) for line in lines for part in line.split("<br>")]


DRAWN: dict[str, Callable[[str, Path], list[str]]] = {"svg": as_svg, "dot": as_dot, "html": as_html, "mermaid": as_mermaid}


@pytest.mark.every(8)
@pytest.mark.parametrize("name", NAMES, ids=IDS)
@pytest.mark.parametrize("form", DRAWN)
def test_drawings(tmp_path: Path, form: str, name: str) -> None:
    texts = [text.replace("\xa0", " ") for text in DRAWN[form](name, tmp_path)]  # Graphviz's own, for spaces in a row
    assert all(map(one_line, (t.replace("\n", "").replace("\t", "").replace("\0", "") for t in texts)))
    if len(name) < 100 and form != "dot":
        seen = visible(name)
        assert any(seen in t or seen.strip() in t for t in texts), (seen, texts[:6])


@pytest.mark.every(8)
@pytest.mark.parametrize("name", NAMES, ids=IDS)
def test_listings_and_derivations(name: str) -> None:
    loss = loss_of(name)
    graph = Graph.of(loss)
    lines = str(graph).split("\n")
    assert len(lines) == len(graph.nodes) + len(graph.leaves) + 1
    assert all(map(one_line, lines))
    assert graph.hash() != Graph.of(loss_of("other")).hash()
    derivation = draw.derive(loss, graph.leaves[0], name=name)
    assert all(map(one_line, str(derivation).split("\n")))
    latex = derivation.latex
    assert all(map(one_line, latex.split("\n")))
    assert not re.search(r"</?\w", latex)
    depth = 0
    for sign in re.findall(r"(?<!\\)(?:\\\\)*([{}])", latex):
        depth += 1 if sign == "{" else -1
        assert depth >= 0, latex
    assert depth == 0


@pytest.mark.every(8)
@pytest.mark.parametrize("name", NAMES, ids=IDS)
def test_figures(tmp_path: Path, name: str) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # of other scripts
        warnings.filterwarnings("ignore", "constrained_layout not applied")  # to a name of 3,000 letters
        draw.confusion([0, 1], [0, 1], names=[name, "b"]).savefig(tmp_path / "a.svg")
        draw.curves({f"{name}_loss": [1.0, 2.0], name: [1.0, 2.0]}, title=name).savefig(tmp_path / "b.png", dpi=10)
    assert all(map(one_line, (tmp_path / "a.svg").read_text("utf-8").split("\n")))


@pytest.mark.every(8)
@pytest.mark.parametrize("name", NAMES, ids=IDS)
def test_tables_and_logs(tmp_path: Path, name: str) -> None:
    history = train.History({name: [1.0, 2.0], "loss": [3.0, 4.0]})
    assert len(str(history).split("\n")) == 3
    assert all(map(one_line, str(history).split("\n")))
    history.to_csv(tmp_path / "a.csv")
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    surrogates = any(0xD800 <= ord(c) < 0xE000 for c in name)
    assert rows == [[visible(name) if surrogates else name, "loss"], ["1.0", "3.0"], ["2.0", "4.0"]]

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            setattr(self, name, nn.Linear(2, 2))
            self.second = nn.ReLU()

    if "." not in name:
        assert all(map(one_line, repr(Named()).split("\n")))
        with tensorgrad.profile() as profile:
            model = Named()
            getattr(model, name)(np.ones((1, 2), np.float32)).sum().backward()
        assert all(map(one_line, str(profile).split("\n")))


@pytest.mark.every(8)
@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("name", NAMES, ids=IDS)
def test_files(tmp_path: Path, name: str, suffix: str) -> None:
    """Kept as it is, or refused before there is a file."""
    path = tmp_path / f"a{suffix}"
    values = {name: [np.ones(2), {name: 1}], "text": name}
    if not name.isprintable() or "/" in name:
        with pytest.raises(ArgumentError, match="save: extra has the key "):
            train.save(path, extra=values)
        assert not list(tmp_path.iterdir())
        return
    train.save(path, extra=values)
    found = train.load(path)["extra"]
    assert found["text"] == name
    np.testing.assert_array_equal(found[name][0], np.ones(2))
    assert found[name][1] == {name: 1}


@pytest.mark.parametrize("name", ["\0", "\ud800", "\u202e", "a/b", "a\nb"])
def test_what_cannot_be_saved_is_said_before_the_first_epoch(tmp_path: Path, name: str) -> None:
    model = nn.Linear(2, 2)
    before = model.weight.numpy().copy()
    loader = data.DataLoader(np.ones((4, 2), np.float32), np.zeros(4, int))

    def metric(prediction: Any, target: Any) -> float:
        return 1.0

    with pytest.raises(ArgumentError, match="save: history has the key"):
        train.fit(
            model, F.cross_entropy, optim.SGD(model.parameters(), 0.1), loader, 1, metrics={name: metric}, progress=False,
            compile=False, checkpoint=tmp_path / "a.npz",
        )  # fmt: skip
    np.testing.assert_array_equal(model.weight.numpy(), before)
    assert not list(tmp_path.iterdir())


def test_names_that_are_too_long_and_nests_that_are_too_deep(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"an array cannot be named 'extra/xxx.*'\.\.\."):
        train.save(tmp_path / "a.npz", extra={"x" * 70_000: np.ones(2)})
    deep: list[Any] = []
    deep.append(deep)
    with pytest.raises(ArgumentError, match="save: lists and dicts are nested too deeply"):
        train.save(tmp_path / "a.npz", extra=deep)
    assert not list(tmp_path.iterdir())


def test_a_box_of_one_line(tmp_path: Path) -> None:
    """Which Graphviz would take for markup if it was not told."""
    dot = to_dot(Scene({"a": Box("a", "op", ["<b>x</b>"])}))
    assert [text for element in ET.fromstring(render(dot, "svg")).iter() if (text := element.text or "").strip() == "<b>x</b>"]


@pytest.mark.parametrize("path", ["a\0b", "\ud800", 5, None, b"a", "x\0.npz", "\ud800.npz", "\0.dot", "\ud800.svg", "\0.csv"])
def test_paths_that_cannot_be(path: Any) -> None:
    readers = [data.read_csv, data.read_npz, data.read_idx, train.load]
    writers = [train.save, train.History({"a": [1]}).to_csv, draw.graph(loss_of("x")).save]
    for call in [*readers, *writers]:
        with pytest.raises(TensorgradError):
            call(path)
