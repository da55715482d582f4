"""Models of PyTorch's made ours and back: `python -m tests.golden.torch_modules` compares them with the original.

For each layer of torch_layers.py, and for the models below: results in evaluation and in training mode, gradients of all
parameters, and what is said of what has no counterpart.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from tensorgrad import Tensor, interop
from tensorgrad.errors import ExportError
from tensorgrad.nn.functional import seed
from tests.golden.torch_layers import LAYERS, floats

tn = torch.nn


def tied() -> Any:
    model = tn.Sequential(tn.Linear(4, 4), tn.Tanh(), tn.Linear(4, 4))
    model[2].weight = model[0].weight
    return model


def language_model(bias: bool) -> Any:
    """The head has the table of the embedding."""
    model = tn.Sequential(tn.Embedding(6, 4), tn.Sequential(tn.Linear(4, 4), tn.Tanh()), tn.Linear(4, 6, bias=bias))
    model[2].weight = model[0].weight
    return model


def frozen() -> Any:
    model = tn.Sequential(tn.Linear(4, 4, dtype=torch.float64), tn.BatchNorm1d(4, dtype=torch.float64), tn.Dropout(0.0))
    model[0].weight.requires_grad_(False)
    model[1].eval()
    return model


def shared() -> Any:
    layer = tn.Linear(4, 4)
    return tn.Sequential(layer, tn.ReLU(), layer)


def encoder() -> Any:
    return tn.TransformerEncoder(tn.TransformerEncoderLayer(4, 2, 8, 0.0, "gelu", batch_first=True), 2, tn.LayerNorm(4))


MODELS: dict[str, tuple[Callable[[], Any], Callable[[], tuple[torch.Tensor, ...]]]] = {
    "nested": (
        lambda: tn.Sequential(tn.Sequential(tn.Linear(4, 4)), tn.Sequential(tn.ReLU(), tn.Linear(4, 2))),
        lambda: (floats(3, 4),),
    ),
    "tied": (tied, lambda: (floats(3, 4),)),
    "tied to a table": (lambda: language_model(False), lambda: (torch.tensor([[0, 5, 2]]),)),
    "tied to a table, with a bias": (lambda: language_model(True), lambda: (torch.tensor([[0, 5, 2]]),)),
    "shared": (shared, lambda: (floats(3, 4),)),
    "frozen": (frozen, lambda: (floats(3, 4).double(),)),
    "encoder": (encoder, lambda: (floats(2, 3, 4),)),
    "decoder": (
        lambda: tn.TransformerDecoder(tn.TransformerDecoderLayer(4, 2, 8, 0.0, norm_first=True), 2),
        lambda: (floats(3, 2, 4), floats(5, 2, 4)),
    ),
    "activation as a module": (lambda: tn.TransformerEncoderLayer(4, 2, 8, 0.0, tn.GELU()), lambda: (floats(3, 2, 4),)),
    "attention": (lambda: tn.MultiheadAttention(4, 2, bias=False), lambda: (floats(3, 2, 4),) * 3),
    "lstm": (lambda: tn.LSTM(4, 4, 2, batch_first=True, bidirectional=True), lambda: (floats(2, 3, 4),)),
    "gru": (lambda: tn.GRU(4, 4), lambda: (floats(2, 3, 4),)),
    "rnn": (lambda: tn.RNN(3, 4, nonlinearity="relu", bias=False), lambda: (floats(2, 3, 3),)),
    "cells": (lambda: tn.LSTMCell(4, 4), lambda: (floats(3, 4),)),
    "gru cell": (lambda: tn.GRUCell(4, 4), lambda: (floats(3, 4),)),
    "flattened": (lambda: tn.Sequential(tn.Flatten(), tn.Linear(8, 2), tn.Softmax(1)), lambda: (floats(3, 4, 2),)),
    "distance": (lambda: tn.PairwiseDistance(1.0, keepdim=True), lambda: (floats(3, 4), floats(3, 4))),
    "similarity": (lambda: tn.CosineSimilarity(0), lambda: (floats(3, 4), floats(3, 4))),
}


class Own(tn.Linear):
    pass


def hooked() -> Any:
    model = tn.Sequential(tn.ReLU())
    model[0].register_forward_hook(lambda *_: None)
    return model


def layer_with(**parts: Any) -> Any:
    """A transformer's layer with other parts than it came with."""
    layer = tn.TransformerEncoderLayer(4, 2, 8)
    for name, part in parts.items():
        setattr(layer, name, part)
    return layer


def added(model: Any, **arrays: Any) -> Any:
    for name, array in arrays.items():
        model.register_buffer(name, array)
    return model


def hooked_inside() -> Any:
    layer = tn.TransformerEncoderLayer(4, 2, 8)
    layer.linear1.register_forward_hook(lambda *_: None)
    return layer


def tied_inside() -> Any:
    model = tn.Sequential(tn.Embedding(8, 4), tn.TransformerEncoderLayer(4, 2, 8))
    model[1].linear1.weight = model[0].weight
    return model


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "own": (lambda: tn.Sequential(tn.ReLU(), tn.Sequential(Own(2, 2)), tn.Bilinear(2, 2, 2)), "1.0: Own, a class"),
    "both are listed": (lambda: tn.Sequential(tn.ReLU(), tn.Sequential(Own(2, 2)), tn.Bilinear(2, 2, 2)), "; 2: Bilinear"),
    "padding": (lambda: tn.Conv1d(2, 2, 3, padding=1, padding_mode="circular"), "with padding_mode='circular'"),
    "projection": (lambda: tn.LSTM(4, 4, proj_size=2), "with proj_size=2"),
    "statistics": (lambda: tn.BatchNorm1d(2, track_running_stats=False), "track_running_stats=False"),
    "hooks": (hooked, "0: ReLU with hooks"),
    "bias": (lambda: tn.LayerNorm(3, bias=False), "LayerNorm without bias"),
    "keys": (lambda: tn.MultiheadAttention(4, 2, kdim=3), "with kdim or vdim"),
    "keys with a bias": (lambda: tn.MultiheadAttention(4, 2, add_bias_kv=True), "with add_bias_kv=True;"),
    "buffers": (lambda: added(tn.Sequential(tn.ReLU()), a=floats(2)), "Sequential with parameters or buffers of its own, a;"),
    "more buffers": (lambda: tn.Sequential(added(tn.Linear(2, 2), a=floats(2))), "0: Linear with other parameters"),
    "a container is no reason": (lambda: tn.Sequential(tn.Sequential(Own(2, 2))), "counterpart of 0.0: Own, a class"),
    "hooks inside": (hooked_inside, "TransformerEncoderLayer with hooks"),
    "another norm": (lambda: layer_with(norm1=tn.Identity()), "TransformerEncoderLayer with norm1: Identity"),
    "own linear": (lambda: layer_with(linear1=Own(4, 8)), "TransformerEncoderLayer with linear1: Own"),
    "eps": (lambda: layer_with(norm2=tn.LayerNorm(4, eps=0.5)), "with different eps"),
    "activation": (lambda: tn.TransformerEncoderLayer(4, 2, activation=tn.GELU("tanh")), "activation=GELU(approximate='tanh')"),
    "threshold": (lambda: tn.Softplus(threshold=1), "with threshold=1"),
    "scale": (lambda: tn.Upsample(scale_factor=1.5, recompute_scale_factor=True), "with recompute_scale_factor=True"),
    "no values": (lambda: tn.Linear(2, 2, device="meta"), "Linear without values"),
    "complex": (lambda: tn.Linear(2, 2, dtype=torch.complex64), "Linear of dtype complex64"),
    "dtypes": (lambda: layer_with(linear1=tn.Linear(4, 8, dtype=torch.float64)), "of dtype float32 and float64"),
    "tied the other way": (tied_inside, "0.weight and 1.linear1.weight are one parameter"),
}


def flat(result: Any) -> list[Any]:
    """The arrays in what a module has returned."""
    if isinstance(result, (tuple, list)):
        return [a for part in result for a in flat(part)]
    return [] if result is None else [result]


def check(make: Callable[[], Any], example: Callable[[], Any]) -> float:
    """The largest difference of results and gradients, as a share of the larger of 1 and the value."""
    worst = 0.0
    torch.manual_seed(0)
    original = make()
    given = example()
    given = given if isinstance(given, tuple) else (given,)

    def differ(found: Any, expected: Any) -> None:
        nonlocal worst
        found, expected = np.asarray(found), np.asarray(expected)
        assert found.shape == expected.shape, (found.shape, expected.shape)
        if expected.size:
            worst = max(worst, float((abs(found - expected) / np.maximum(1, abs(expected))).max()))

    for training in (None, False, True):
        if training is not None:
            original.train(training)
        seed(0)
        ours = interop.from_torch(original)
        back = interop.to_torch(ours)
        modules = [m for name, m in original.named_modules() if name != "activation"]  # which is a function in what comes back
        assert [m.training for m in back.modules()] == [m.training for m in modules]
        assert [p.requires_grad for p in back.parameters()] == [p.requires_grad for p in original.parameters()]
        for key, value in original.state_dict().items():
            if "num_batches" not in key:
                assert torch.equal(back.state_dict()[key], value), key
        results = [flat(original(*given)), flat(back(*given)), flat(ours(*[Tensor(x.numpy()) for x in given]))]
        assert len({len(r) for r in results}) == 1
        for expected, again, found in zip(*results, strict=True):
            differ(again.detach(), expected.detach())
            differ(found.detach().numpy(), expected.detach())
        if any(p.requires_grad for p in original.parameters()) and results[0][0].requires_grad:
            original.zero_grad()
            (results[0][0] * torch.arange(results[0][0].numel()).reshape(results[0][0].shape)).sum().backward()
            z = results[2][0]
            (z * np.arange(z.size, dtype=z.dtype).reshape(z.shape)).sum().backward()
            with torch.no_grad():
                for p in ours.parameters():
                    p.data[...] = 0 if p.grad is None else p.grad.numpy()
            gradients = interop.to_torch(ours)
            for p, q in zip(original.parameters(), gradients.parameters(), strict=True):
                if p.grad is not None:
                    differ(q.detach() / max(1, abs(p.grad).max()), p.grad / max(1, abs(p.grad).max()))
    return worst


if __name__ == "__main__":
    cases = {**{name: (make, example) for name, (make, example) in LAYERS.items() if name != "Nested"}, **MODELS}
    for name, (make, example) in cases.items():
        worst = check(make, example)
        print(f"{name:26} {worst:.1e}", "" if worst < 1e-5 else "  <-- too much")
    for name, (make, message) in REFUSED.items():
        try:
            interop.from_torch(make())
        except ExportError as error:
            print(f"{name:26} refused" if message in str(error) else f"{name}: {error}  <-- another message")
        else:
            print(f"{name:26} <-- not refused")
