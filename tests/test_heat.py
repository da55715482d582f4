"""Pictures of arrays, in the boxes of drawings and beside a page."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tensorgrad import Tensor, draw, nn
from tensorgrad.draw.heat import BAD, LARGE, NEGATIVE, POSITIVE, SMALL, cell_colour, map_of
from tensorgrad.errors import ArgumentError
from tensorgrad.nn import functional as F
from tests.test_page import browser  # noqa: F401  # a fixture

DTYPES = st.sampled_from(["float16", "float32", "float64", "int8", "int64", "uint8", "bool"])
ARRAYS = DTYPES.flatmap(lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=40)))


@given(array=ARRAYS, most=st.sampled_from([SMALL, LARGE, (3, 4)]))
def test_any_array(array: Any, most: tuple[int, int]) -> None:
    found = map_of("a", array, most)
    assert (found is None) == (not array.ndim or not array.size)
    if found is None:
        return
    widths = {len(row) for row in found.cells}
    assert len(widths) == 1
    if most != (3, 4):  # below the least size of a matrix among several
        assert len(found.cells) <= most[0]
        assert widths.pop() <= most[1]
    cells = np.array([c for row in found.cells for c in row if c is not None])
    finite = cells[np.isfinite(cells)]
    assert (np.abs(finite) <= 1 + 1e-12).all()
    if np.isfinite(array.astype(float)).all():
        assert np.isfinite(cells).all()


@given(rows=st.integers(1, 30), columns=st.integers(1, 60))
def test_cells_are_means_of_blocks(rows: int, columns: int) -> None:
    a = np.random.default_rng(rows).normal(size=(rows, columns))
    found = map_of("a", a, SMALL)
    heights, widths = -(-rows // SMALL[0]), -(-columns // SMALL[1])
    expected = [[a[i : i + heights, j : j + widths].mean() for j in range(0, columns, widths)] for i in range(0, rows, heights)]
    np.testing.assert_allclose(np.array(found.cells, float), np.array(expected) / np.abs(a).max(), rtol=1e-12, atol=1e-15)
    assert ("means" in found.caption) == (heights * widths > 1)
    assert f"±{np.abs(a).max():.2g}" in found.caption


def test_matrices_of_more_axes_stand_apart() -> None:
    a = np.arange(2 * 3 * 2 * 2.0).reshape(2, 3, 2, 2)
    found = map_of("a", a, LARGE)
    n, scale = None, 23
    for line, row in zip(found.cells, [[0, 1, n, 4, 5, n, 8, 9], [2, 3, n, 6, 7, n, 10, 11], [n] * 8], strict=False):
        assert line == tuple(c if c is None else pytest.approx(c / scale) for c in row)
    assert "of" not in found.caption
    assert "3 of 48" in map_of("a", np.ones((12, 4, 8, 8)), SMALL).caption


def test_colours() -> None:
    assert cell_colour(1.0) == POSITIVE
    assert cell_colour(-1.0) == NEGATIVE
    assert cell_colour(0.0) == "#ffffff"
    assert cell_colour(float("nan")) == BAD
    assert cell_colour(None) == ""


def convolutional(values: Any = "maps", **options: Any) -> draw.Drawing:
    rng = np.random.default_rng(0)
    x = Tensor(rng.normal(size=(6, 1, 8, 8)), name="x")
    model = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(192, 10))
    return draw.graph(F.cross_entropy(model(x), np.arange(6)), values=values, **options)


def test_what_the_user_gave_is_shown_not_its_pieces() -> None:
    boxes = {box.lines[0].split(" ")[0]: box for box in convolutional().scene.boxes.values()}
    assert len(boxes["x"].maps) == 1
    assert "3 of 6" in boxes["x"].maps[0][0].caption  # images, not the windows that the convolution makes of them
    assert [small.caption.split(" ")[0] for small, _ in boxes["0"].maps] == ["weight", "result"]
    assert [small.caption.split(" ")[0] for small, _ in boxes["1"].maps] == ["result"]


@pytest.mark.parametrize("suffix", ["svg", "png", "pdf", "tex", "dot", "html"])
def test_in_each_format(suffix: str, tmp_path: Path) -> None:
    with_maps = convolutional().save(tmp_path / f"a.{suffix}").stat().st_size
    assert with_maps > convolutional(True).save(tmp_path / f"b.{suffix}").stat().st_size


def test_on_a_page(browser: Any, tmp_path: Path) -> None:  # noqa: F811
    path = convolutional(backward=True, fused=True).save(tmp_path / "page.html")
    data = json.loads(re.search(r"const DATA = (\{.*\}), VIEWS", path.read_text())[1])["views"]
    first = next(box for box in data["backward"]["boxes"] if box["lines"][0] == "x")
    small, large = first["maps"][0]
    a = np.random.default_rng(0).normal(size=(6, 1, 8, 8))
    expected = np.round(100 * a[0, 0] / np.abs(a).max())
    assert [row[:8] for row in small["cells"][:8]] == expected.tolist()
    browser.get(path.as_uri())
    images = browser.find_elements("css selector", ".box image")
    assert len(images) == sum(len(box.get("maps", [])) for box in data["backward"]["boxes"])
    browser.find_element("css selector", f'.box[data-id="{first["id"]}"]').click()
    canvas = """
      const canvas = document.querySelector('#facts canvas');
      return [canvas.width, Array.from(canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data)];
    """
    width, pixels = browser.execute_script(canvas)
    shown = np.array(pixels).reshape(-1, width, 4)
    k = width // len(large["cells"][0])
    for i, j in itertools.product(range(8), range(8)):
        exact = bytes.fromhex(cell_colour(round(100 * a[0, 0, i, j] / np.abs(a).max()) / 100)[1:])
        assert np.abs(shown[i * k + k // 2, j * k + k // 2, :3] - np.array(list(exact))).max() <= 2
    assert browser.get_log("browser") == []


def test_mistakes() -> None:
    with pytest.raises(ArgumentError, match=r'^draw\.graph: values must be True, False or "maps", got \'all\''):
        convolutional("all")
