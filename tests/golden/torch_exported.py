"""Files that PyTorch's exporter writes, and what the models give: `python -m tests.golden.torch_exported`, with PyTorch 2.13,
onnxscript and onnx, writes an npz.

For each model of MODELS, in evaluation mode: `<name>/m.onnx` and, where it has written one, `<name>/m.onnx.data`, as bytes and
without what only people read; `<name>/x0`, ... what it is called with; `<name>/y` what comes out; `<name>/after` what comes out
after a step of SGD with the rate RATE down the mean of the squares of y; `<name>/any` whether any number of samples will do.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

tn = torch.nn
RATE = 0.1
WIDTH, TOKENS = 8, 11


def encoder(norm_first: bool) -> Any:
    layer = tn.TransformerEncoderLayer(WIDTH, 2, 16, 0.1, "gelu", batch_first=True, norm_first=norm_first)
    return tn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


class GPT(tn.Module):
    """One block over tokens and their places."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = tn.Embedding(TOKENS, WIDTH), tn.Parameter(torch.randn(1, 6, WIDTH))
        self.norm1, self.norm2 = tn.LayerNorm(WIDTH), tn.LayerNorm(WIDTH)
        self.qkv, self.out = tn.Linear(WIDTH, 3 * WIDTH), tn.Linear(WIDTH, WIDTH)
        self.mlp = tn.Sequential(tn.Linear(WIDTH, 32), tn.GELU("tanh"), tn.Linear(32, WIDTH))
        self.head = tn.Linear(WIDTH, TOKENS, bias=False)

    def forward(self, i: Any) -> Any:
        n, length = i.shape
        x = self.tokens(i) + self.places[:, :length]
        q, k, v = (t.view(n, length, 2, WIDTH // 2).transpose(1, 2) for t in self.qkv(self.norm1(x)).chunk(3, -1))
        heads = tn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(heads.transpose(1, 2).reshape(n, length, WIDTH))
        return self.head(x + self.mlp(self.norm2(x)))


class Decoder(tn.Module):
    """With a mask that is a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = tn.TransformerDecoder(tn.TransformerDecoderLayer(WIDTH, 2, 16, batch_first=True), 1)
        self.register_buffer("mask", tn.Transformer.generate_square_subsequent_mask(5))

    def forward(self, x: Any, memory: Any) -> Any:
        return self.decoder(x, memory, tgt_mask=self.mask, tgt_is_causal=True)


class Recurrent(tn.Module):
    """A recurrent network, of which the last state of each direction is looked at, too."""

    def __init__(self, kind: Any, **options: Any) -> None:
        super().__init__()
        self.body = kind(WIDTH, 3, batch_first=True, **options)
        self.head = tn.Linear(6 if options.get("bidirectional") else 3, 2)

    def forward(self, x: Any) -> Any:
        y, last = self.body(x)
        last = last[0] if isinstance(last, tuple) else last
        return self.head(y) + last.sum((0, 2))[:, None, None]


MODELS: dict[str, Any] = {
    "mlp": lambda: (tn.Sequential(tn.Linear(4, 80), tn.ReLU(), tn.Dropout(), tn.Linear(80, 3), tn.Softmax(1)), [(5, 4)]),
    "cnn": lambda: (
        tn.Sequential(
            tn.Conv2d(1, 4, 3, padding=1), tn.BatchNorm2d(4), tn.ReLU(), tn.MaxPool2d(2), tn.Conv2d(4, 6, 3), tn.ReLU(),
            tn.AvgPool2d(2), tn.Flatten(), tn.Linear(6, 3),
        ),
        [(2, 1, 8, 8)],
    ),
    "encoder": lambda: (encoder(False), [(2, 5, WIDTH)]),
    "encoder, normed first": lambda: (encoder(True), [(2, 5, WIDTH)]),
    "gpt": lambda: (GPT(), [(2, 6)]),
    "decoder": lambda: (Decoder(), [(2, 5, WIDTH), (2, 4, WIDTH)]),
    "lstm": lambda: (Recurrent(tn.LSTM), [(2, 5, WIDTH)]),
    "gru": lambda: (Recurrent(tn.GRU, num_layers=2, bidirectional=True), [(2, 5, WIDTH)]),
    "upsampled": lambda: (
        tn.Sequential(
            tn.Conv2d(1, 2, 3), tn.Upsample(scale_factor=2), tn.Conv2d(2, 2, 3), tn.Upsample((5, 9), mode="bilinear"),
            tn.Upsample(scale_factor=1.5, mode="bilinear", align_corners=True),
        ),
        [(2, 1, 5, 6)],
    ),
}  # fmt: skip


def values_of(shape: tuple[int, ...]) -> Any:
    return torch.randint(TOKENS, shape) if shape == (2, 6) else torch.randn(shape)


def plain(content: bytes) -> bytes:
    """A file without remarks, such as the lines of Python that its nodes come from."""
    proto = onnx.load_model_from_string(content)
    for part in (proto, proto.graph, *proto.graph.node, *proto.graph.initializer, *proto.graph.input, *proto.graph.output):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    proto.graph.ClearField("value_info")
    return bytes(proto.SerializeToString())


if __name__ == "__main__":
    torch.backends.mha.set_fastpath_enabled(False)
    arrays: dict[str, np.ndarray] = {}
    for name, make in MODELS.items():
        for any_number in (False, True):
            torch.manual_seed(0)
            model, shapes = make()
            model.eval()
            with torch.no_grad():
                for p in model.parameters():  # no two are equal
                    p += 0.1 * torch.randn(p.shape)
                for key, buffer in model.named_buffers():
                    if key.endswith("running_var"):
                        buffer += torch.rand(buffer.shape)
            xs = [values_of(shape) for shape in shapes]
            path = Path(tempfile.mkdtemp()) / "m.onnx"
            sizes = tuple({0: torch.export.Dim("n")} for _ in xs) if any_number else None
            torch.onnx.export(model, tuple(xs), str(path), dynamic_shapes=sizes)
            here = f"{name}, any number" if any_number else name
            arrays[f"{here}/m.onnx"] = np.frombuffer(plain(path.read_bytes()), np.uint8)
            beside = path.with_name("m.onnx.data")
            if beside.exists() and beside.stat().st_size:
                arrays[f"{here}/m.onnx.data"] = np.frombuffer(beside.read_bytes(), np.uint8)
            arrays |= {f"{here}/x{i}": x.numpy() for i, x in enumerate(xs)}
            y = model(*xs)
            arrays[f"{here}/y"] = y.detach().numpy()
            (y * y).mean().backward()
            torch.optim.SGD(model.parameters(), RATE).step()
            arrays[f"{here}/after"] = model(*xs).detach().numpy()
            arrays[f"{here}/any"] = np.array(any_number)
    np.savez_compressed(Path(__file__).with_suffix(".npz"), **arrays)
