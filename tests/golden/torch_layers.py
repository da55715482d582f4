"""What PyTorch's layers give: `python tests/golden/torch_layers.py`, with PyTorch 2.13, writes torch_layers.npz beside it.

For each layer of LAYERS, made with torch.manual_seed(0): `<name>/x` the input, `<name>/y` the output in evaluation mode, and
`<name>/state/<key>` each entry of its state_dict. BatchNorm has seen two batches in training before.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(6, 4)
        self.body = nn.ModuleList([nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.LayerNorm(4)) for _ in range(2)])
        self.heads = nn.ModuleDict({"a": nn.Linear(4, 4, bias=False)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.embed(x)
        for part in self.body:
            h = h + part(h)
        return self.heads["a"](h)


def floats(*shape: int) -> torch.Tensor:
    return torch.randn(shape)


LAYERS = {
    "Linear": (lambda: nn.Linear(4, 4), lambda: floats(3, 4)),
    "Linear_wide": (lambda: nn.Linear(4, 3), lambda: floats(2, 5, 4)),
    "Conv2d": (lambda: nn.Conv2d(3, 3, 3, padding=1), lambda: floats(2, 3, 4, 4)),
    "Conv2d_strided": (lambda: nn.Conv2d(2, 3, (3, 2), stride=2, bias=False), lambda: floats(2, 2, 5, 5)),
    "BatchNorm1d": (lambda: nn.BatchNorm1d(4), lambda: floats(4, 4)),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(3), lambda: floats(3, 3, 3, 3)),
    "LayerNorm": (lambda: nn.LayerNorm((4, 4)), lambda: floats(2, 4, 4)),
    "Embedding": (lambda: nn.Embedding(4, 4), lambda: torch.tensor([[0, 3], [2, 2]])),
    "Nested": (Nested, lambda: torch.tensor([[0, 5], [2, 1]])),
}

if __name__ == "__main__":
    arrays: dict[str, np.ndarray] = {}
    for name, (make, example) in LAYERS.items():
        torch.manual_seed(0)
        layer = make()
        with torch.no_grad():
            for key, value in layer.state_dict().items():
                if key.endswith("weight") and value.ndim == 1:  # so that not all of a normalisation's are 1
                    value.copy_(torch.rand(value.shape) + 0.5)
            if name.startswith("BatchNorm"):
                for _ in range(2):
                    layer(example() * 2 + 1)
            x = example()
            arrays |= {f"{name}/x": x.numpy(), f"{name}/y": layer.eval()(x).numpy()}
        arrays |= {f"{name}/state/{key}": value.numpy() for key, value in layer.state_dict().items()}
    np.savez_compressed(Path(__file__).with_suffix(".npz"), **arrays)
