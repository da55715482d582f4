"""What PyTorch's recurrent layers give: `python tests/golden/torch_recurrent.py`, with PyTorch 2.13, writes an npz beside it.

For each layer of LAYERS, made in float64 with torch.manual_seed(0): `<name>/x` the input, `<name>/y0` and so on what comes out,
flat, `<name>/gx` the gradient of the sum of the squares of all that with respect to x, `<name>/state/<key>` each entry of its
state_dict, `<name>/grad/<key>` its gradient. Of sequences of the LENGTHS what PyTorch makes of them packed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

LENGTHS = [3, 1, 4]
LAYERS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "RNN": (lambda: nn.RNN(2, 3, 2, bidirectional=True), (4, 3, 2)),
    "RNN_relu": (lambda: nn.RNN(2, 3, nonlinearity="relu", bias=False, batch_first=True), (2, 4, 2)),
    "LSTM": (lambda: nn.LSTM(2, 3, 2, bidirectional=True), (4, 3, 2)),
    "LSTM_first": (lambda: nn.LSTM(2, 3, bias=False, batch_first=True), (2, 4, 2)),
    "LSTM_single": (lambda: nn.LSTM(2, 3, bidirectional=True), (4, 2)),
    "GRU": (lambda: nn.GRU(2, 3, 2, bidirectional=True), (4, 3, 2)),
    "GRU_first": (lambda: nn.GRU(2, 3, bias=False, batch_first=True), (2, 4, 2)),
    "GRU_single": (lambda: nn.GRU(2, 3, 2), (4, 2)),
    "RNNCell": (lambda: nn.RNNCell(2, 3, nonlinearity="relu"), (4, 2)),
    "LSTMCell": (lambda: nn.LSTMCell(2, 3), (4, 2)),
    "GRUCell": (lambda: nn.GRUCell(2, 3, bias=False), (2,)),
    "RNN_ragged": (lambda: nn.RNN(2, 3, 2, bidirectional=True), (4, 3, 2)),
    "LSTM_ragged": (lambda: nn.LSTM(2, 3, 2, bidirectional=True), (4, 3, 2)),
    "GRU_ragged": (lambda: nn.GRU(2, 3, 2, bidirectional=True), (4, 3, 2)),
}


def flat(found: Any) -> list[torch.Tensor]:
    return [found] if isinstance(found, torch.Tensor) else [t for part in found for t in flat(part)]


def called(name: str, layer: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    if not name.endswith("ragged"):
        return flat(layer(x))
    packed, last = layer(pack_padded_sequence(x, torch.tensor(LENGTHS), enforce_sorted=False))
    return [pad_packed_sequence(packed)[0], *flat(last)]


if __name__ == "__main__":
    arrays: dict[str, np.ndarray] = {}
    for name, (make, shape) in LAYERS.items():
        torch.manual_seed(0)
        layer, x = make().double(), torch.randn(shape).double().requires_grad_()
        found = called(name, layer, x)
        sum((y * y).sum() for y in found).backward()
        arrays |= {f"{name}/x": x.detach().numpy(), f"{name}/gx": x.grad.numpy()}
        arrays |= {f"{name}/y{i}": y.detach().numpy() for i, y in enumerate(found)}
        arrays |= {f"{name}/state/{key}": value.numpy() for key, value in layer.state_dict().items()}
        arrays |= {f"{name}/grad/{key}": p.grad.numpy() for key, p in layer.named_parameters()}
    np.savez_compressed(Path(__file__).with_suffix(".npz"), **arrays)
