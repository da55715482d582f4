"""What PyTorch's layers of attention give: `python tests/golden/torch_attention.py`, with PyTorch 2.13, writes an npz.

For each layer of LAYERS, made in float64 with torch.manual_seed(0) and in evaluation mode: `<name>/x` and `<name>/memory` what
it is called with (CALLS), `<name>/y` what comes out, `<name>/gx` the gradient of the sum of its squares with respect to x,
`<name>/state/<key>` each entry of its state_dict, `<name>/grad/<key>` its gradient. The masks are masks().
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

N, L, E = 2, 3, 4


def masks() -> dict[str, Any]:
    """padding, True for the last key of the second sequence; causal, True for what is later."""
    padding = np.zeros((N, L), bool)
    padding[1, -1] = True
    return {"padding": padding, "causal": np.triu(np.ones((L, L), bool), 1)}


LAYERS: dict[str, Any] = {
    "heads": lambda: nn.MultiheadAttention(E, 2, batch_first=True),
    "heads_plain": lambda: nn.MultiheadAttention(E, 2, bias=False),
    "encoder": lambda: nn.TransformerEncoder(
        nn.TransformerEncoderLayer(E, 2, 5, batch_first=True, norm_first=True, activation="gelu"),
        2,
        nn.LayerNorm(E),
        enable_nested_tensor=False,
    ),
    "encoder_layer": lambda: nn.TransformerEncoderLayer(E, 1, 5, batch_first=True),
    "decoder": lambda: nn.TransformerDecoder(nn.TransformerDecoderLayer(E, 2, 5, batch_first=True), 2),
}
CALLS: dict[str, Any] = {
    "heads": lambda f, x, memory, m: f(x, memory, memory, key_padding_mask=m["padding"], attn_mask=m["causal"])[0],
    "heads_plain": lambda f, x, memory, m: f(x, x, x)[0],
    "encoder": lambda f, x, memory, m: f(x, m["causal"], m["padding"]),
    "encoder_layer": lambda f, x, memory, m: f(x),
    "decoder": lambda f, x, memory, m: f(x, memory, m["causal"], None, m["padding"]),
}

if __name__ == "__main__":
    arrays: dict[str, np.ndarray] = {}
    for name, make in LAYERS.items():
        torch.manual_seed(0)
        layer = make().double().eval()
        x, memory = torch.randn(N, L, E).double().requires_grad_(), torch.randn(N, L, E).double()
        y = CALLS[name](layer, x, memory, {key: torch.tensor(mask) for key, mask in masks().items()})
        (y * y).sum().backward()
        arrays |= {f"{name}/x": x.detach().numpy(), f"{name}/memory": memory.numpy()}
        arrays |= {f"{name}/y": y.detach().numpy(), f"{name}/gx": x.grad.numpy()}
        arrays |= {f"{name}/state/{key}": value.numpy() for key, value in layer.state_dict().items()}
        arrays |= {f"{name}/grad/{key}": p.grad.numpy() for key, p in layer.named_parameters()}
    np.savez_compressed(Path(__file__).with_suffix(".npz"), **arrays)
