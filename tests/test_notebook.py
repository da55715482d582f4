"""What a notebook shows for the last line of a cell: seen by running one. What stands in the texts of objects."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest

import tensorgrad
from tensorgrad import Tensor, data, draw, nn, optim, train
from tensorgrad.nn import functional as F

START = """
import numpy as np, tensorgrad
from tensorgrad import Tensor, data, draw, nn, optim, train
from tensorgrad.nn import functional as F
x = np.random.default_rng(0).normal(size=(50, 4)).astype("f")
model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 1))
adam = optim.Adam(model.parameters(), lr=0.01)
history = train.fit(model, F.mse_loss, adam, (x, x[:, :1]), epochs=3, progress=False)
loss = F.mse_loss(model(x), x[:, :1])
labels = np.arange(50) % 3
"""

PICTURES = {
    "history.plot()": "image/png",
    "draw.curves(history.columns)": "image/png",
    "draw.confusion(labels, labels)": "image/png",
    "draw.images(x)": "image/png",
    "draw.predictions(x, labels)": "image/png",
    "draw.mistakes(x, labels, 1 - labels % 2)": "image/png",
    "draw.network(model)": "image/png",
    "draw.graph(loss)": "image/svg+xml",
    "draw.graph(model, x, backward=True)": "image/svg+xml",
    "loss.graph()": "image/svg+xml",
}
TEXTS = {
    "adam": "Adam(lr=0.01, betas=(0.9, 0.999), ",
    "optim.CosineLR(adam, 10)": "CosineLR(epochs=10, end=0, per='epoch'; t=0, lr=0.01)",
    "data.DataLoader(x, x[:, :1], batch_size=16, shuffle=True)": "DataLoader((50, 4) float32, (50, 1) float32, shuffle=True; "
    "50 samples, 4 batches of 16)",
    "tensorgrad.compile(lambda a: a + 1)": "<compiled <lambda>: no plan yet>",
    "train.EarlyStopping(patience=3)": "EarlyStopping(monitor='val_loss', patience=3, ",
    "history": "epoch ",
    "model": "Sequential(",
    "draw.derive(loss, model[0].weight)": "",
    "tensorgrad.graph.Graph.of(loss)": "leaf",
}


def test_a_notebook_shows_each_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a choice of pyplot's backend, and with that of notebooks."""
    pytest.importorskip("ipykernel", reason="needs ipykernel: pip install ipykernel")
    nbclient = pytest.importorskip("nbclient", reason="needs nbclient: pip install nbclient")
    nbformat = pytest.importorskip("nbformat", reason="needs nbformat: pip install nbclient")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    codes = [*PICTURES, *TEXTS]
    cells = [START, *codes, "%matplotlib inline", "history.plot()"]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code) for code in cells])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of asyncio and zmq, as the client uses them
        nbclient.NotebookClient(
            book, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
        ).execute()
    shown = dict(zip(cells, [cell.outputs for cell in book.cells], strict=False))
    for code in codes:
        (output,) = [o for o in shown[code] if o.output_type in ("execute_result", "display_data")]
        assert code in TEXTS or PICTURES[code] in output.data, (code, list(output.data))
        assert " object at 0x" not in output.data["text/plain"]
        if code in TEXTS:
            assert TEXTS[code] in output.data["text/plain"].replace("\\n", "\n"), (code, output.data["text/plain"])
    assert [sorted(o.data) for o in book.cells[-1].outputs if "data" in o] == [["image/png", "text/plain"]]  # once, not twice


def small() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 1))


def test_what_optimisers_say_of_themselves() -> None:
    model = small()
    groups = optim.SGD(
        [{"params": model[0].parameters()}, {"params": model[2].parameters(), "lr": 0.5}], lr=0.125, momentum=0.9
    )
    first, second, third = repr(groups).splitlines()
    assert first == "SGD(2 groups; 4 parameters, 19 numbers, 0 steps made)"
    assert second.startswith("  group 0: lr=0.125, ")
    assert third.startswith("  group 1: lr=0.5, ")
    assert "momentum=0.9" in third
    assert third.endswith("; 2 parameters")
    one = optim.SGD(model[0].weight, lr=1e-3)
    model[0].weight.sum().backward()
    one.step()
    assert repr(one).startswith("SGD(lr=0.001, ")
    assert repr(one).endswith("; 1 parameter, 12 numbers, 1 step made)")


def test_what_a_compiled_step_says_of_itself() -> None:
    model = small()
    step = tensorgrad.compile(lambda x: model(x).sum())
    for _ in range(3):
        step(np.ones((2, 4), np.float32))
    assert step.plan is not None
    assert repr(step) == f"<compiled {step.__qualname__}: 1 plan, the last used has {len(step.plan.calls)} kernels>"
    step(np.ones((3, 4), np.float32))
    assert f"the last call was no replay: {step.why_not}>" in repr(step)


def test_what_schedules_loaders_and_callbacks_say_of_themselves() -> None:
    adam = optim.Adam(small().parameters(), lr=0.01)
    schedule = optim.StepLR(adam, every=2, gamma=0.5, per="batch")
    schedule.step()
    schedule.step()
    assert repr(schedule) == "StepLR(every=2, gamma=0.5, per='batch'; t=2, lr=0.005)"
    assert " object at 0x" not in repr(optim.LambdaLR(adam, lambda t: 1.0))
    x = np.ones((5, 2), np.float32)
    assert repr(data.DataLoader(x, batch_size=None)) == "DataLoader((5, 2) float32; 5 samples, 1 batch of 5)"
    assert "drop_last=True; 5 samples, 2 batches of 2" in repr(data.DataLoader(x, np.arange(5), batch_size=2, drop_last=True))
    assert repr(train.EarlyStopping("val_loss", patience=2)).startswith("EarlyStopping(monitor='val_loss', patience=2, ")


def test_figures_are_pictures_and_can_be_pickled() -> None:
    figure = draw.curves({"loss": [1.0, 0.5]})
    png = figure._repr_png_()
    assert png[:4] == b"\x89PNG"
    assert pickle.loads(pickle.dumps(figure))._repr_png_()[:4] == b"\x89PNG"
    figure.savefig = None  # a repr does not raise
    assert figure._repr_png_() is None


def test_what_they_say_is_of_now() -> None:
    model = small()
    loss = F.mse_loss(model(Tensor(np.ones((2, 4), np.float32))), np.zeros((2, 1), np.float32))
    adam = optim.Adam(model.parameters(), lr=0.01)
    loss.backward()
    adam.step()
    adam.lr = 0.25
    assert repr(adam).startswith("Adam(lr=0.25, ")
    assert repr(adam).endswith("1 step made)")
