"""Files that PyTorch and skl2onnx write, read: `python -m tests.golden.onnx_files`, where both are installed.

Prints the largest difference of each model's results, as a share of the larger of 1 and the value.
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import skl2onnx
import torch
from sklearn.neural_network import MLPClassifier, MLPRegressor

from tensorgrad import onnx
from tests.golden.torch_layers import floats

tn = torch.nn


def transformer(norm_first: bool) -> Any:
    layer = tn.TransformerEncoderLayer(8, 2, 16, 0.1, "gelu", batch_first=True, norm_first=norm_first)
    return tn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


MODELS = {
    "mlp": (tn.Sequential(tn.Linear(4, 8), tn.ReLU(), tn.Dropout(), tn.Linear(8, 3), tn.Softmax(1)), (floats(5, 4),)),
    "cnn": (
        tn.Sequential(
            tn.Conv2d(1, 4, 3, padding=1), tn.BatchNorm2d(4), tn.ReLU(), tn.MaxPool2d(2), tn.Conv2d(4, 6, 3), tn.ReLU(),
            tn.AdaptiveAvgPool2d(1), tn.Flatten(), tn.Linear(6, 3),
        ),
        (floats(2, 1, 8, 8),),
    ),
    "transformer": (transformer(False), (floats(2, 5, 8),)),
    "transformer, normed first": (transformer(True), (floats(2, 5, 8),)),
}  # fmt: skip


def difference(found: Any, expected: Any) -> float:
    found, expected = np.asarray(found), np.asarray(expected)
    return float((abs(found - expected) / np.maximum(1, abs(expected))).max())


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.backends.mha.set_fastpath_enabled(False)
    path = Path(tempfile.mkdtemp()) / "m.onnx"
    for name, (model, given) in MODELS.items():
        torch.onnx.export(model.eval(), given, str(path), dynamo=False, opset_version=17)
        y = onnx.load(path)(*[x.numpy() for x in given])
        print(f"{name:28} {difference(y.detach().numpy(), model(*given).detach()):.1e}")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 4)).astype("f")
    y = rng.integers(3, size=60)
    for labels in (y, y > 0, np.array(list("abc"))[y]):
        classifier = MLPClassifier((5,), max_iter=20, random_state=0).fit(x, labels)
        path.write_bytes(skl2onnx.to_onnx(classifier, x[:1]).SerializeToString())
        found, p = onnx.load(path)(x)
        found = found if isinstance(found, np.ndarray) else found.numpy()
        equal = bool((found == classifier.predict(x)).all())
        print(
            f"classifier, {labels.dtype!s:16} {difference(p.detach().numpy(), classifier.predict_proba(x)):.1e} labels {equal}"
        )
    regressor = MLPRegressor(hidden_layer_sizes=(5, 4), max_iter=20, random_state=0).fit(x, x[:, 0])
    path.write_bytes(skl2onnx.to_onnx(regressor, x[:1]).SerializeToString())
    print(f"{'regressor':28} {difference(onnx.load(path)(x).detach().numpy(), regressor.predict(x)[:, None]):.1e}")
