"""What PyTorch's layers give: `python tests/golden/torch_layers.py`, with PyTorch 2.13, writes torch_layers.npz beside it.

For each layer of LAYERS, made with torch.manual_seed(0): `<name>/x` the input, `<name>/y` the output in evaluation mode, and
`<name>/state/<key>` each entry of its state_dict. BatchNorm has seen two batches in training before. For each
loss of LOSSES `<name>/x0`, `<name>/x1`, ... and `<name>/mean`, `<name>/sum`, `<name>/none`; `<name>/y` for distances.
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
    "Conv2d_same": (lambda: nn.Conv2d(2, 4, (2, 3), padding="same", dilation=2, groups=2), lambda: floats(2, 2, 5, 6)),
    "Conv1d": (lambda: nn.Conv1d(4, 6, 3, stride=2, padding=2, dilation=2, groups=2), lambda: floats(2, 4, 7)),
    "Conv3d": (lambda: nn.Conv3d(2, 2, (1, 2, 2), stride=(1, 2, 1)), lambda: floats(1, 2, 3, 4, 3)),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(4, 6, 3, 3, 1, 2, 2), lambda: floats(2, 4, 4)),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(2, 3, (3, 2), 2, 1, (1, 0), dilation=(1, 2)), lambda: floats(2, 2, 3, 4)),
    "ConvTranspose3d": (lambda: nn.ConvTranspose3d(2, 2, 2, 2, bias=False), lambda: floats(1, 2, 2, 2, 2)),
    "MaxPool1d": (lambda: nn.MaxPool1d(3, 2, 1, 2, ceil_mode=True), lambda: floats(2, 2, 8)),
    "MaxPool2d": (lambda: nn.MaxPool2d((3, 2), 2, 1, ceil_mode=True), lambda: floats(2, 2, 6, 7)),
    "MaxPool3d": (lambda: nn.MaxPool3d(2, 1), lambda: floats(1, 2, 3, 3, 4)),
    "AvgPool1d": (lambda: nn.AvgPool1d(3, 2, 1, True, False), lambda: floats(2, 2, 8)),
    "AvgPool2d": (lambda: nn.AvgPool2d(3, 2, 1, True), lambda: floats(2, 2, 6, 7)),
    "AvgPool3d": (lambda: nn.AvgPool3d(2, 2, 1, False, False), lambda: floats(1, 2, 3, 3, 4)),
    "AdaptiveAvgPool1d": (lambda: nn.AdaptiveAvgPool1d(3), lambda: floats(2, 2, 7)),
    "AdaptiveAvgPool2d": (lambda: nn.AdaptiveAvgPool2d((3, None)), lambda: floats(2, 2, 7, 4)),
    "AdaptiveAvgPool3d": (lambda: nn.AdaptiveAvgPool3d(2), lambda: floats(1, 2, 3, 4, 5)),
    "AdaptiveMaxPool1d": (lambda: nn.AdaptiveMaxPool1d(5), lambda: floats(2, 2, 7)),
    "AdaptiveMaxPool2d": (lambda: nn.AdaptiveMaxPool2d((3, 2)), lambda: floats(2, 2, 7, 5)),
    "AdaptiveMaxPool3d": (lambda: nn.AdaptiveMaxPool3d((None, 2, 4)), lambda: floats(1, 2, 3, 4, 5)),
    "BatchNorm1d": (lambda: nn.BatchNorm1d(4), lambda: floats(4, 4)),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(3), lambda: floats(3, 3, 3, 3)),
    "LayerNorm": (lambda: nn.LayerNorm((4, 4)), lambda: floats(2, 4, 4)),
    "Embedding": (lambda: nn.Embedding(4, 4), lambda: torch.tensor([[0, 3], [2, 2]])),
    "Embedding_padded": (lambda: nn.Embedding(4, 4, padding_idx=1), lambda: torch.tensor([[0, 1], [2, 1]])),
    "EmbeddingBag": (lambda: nn.EmbeddingBag(5, 3), lambda: torch.tensor([[0, 3, 3], [2, 1, 4]])),
    "EmbeddingBag_sum": (lambda: nn.EmbeddingBag(5, 3, mode="sum", padding_idx=3), lambda: torch.tensor([[0, 3], [3, 3]])),
    "EmbeddingBag_mean": (lambda: nn.EmbeddingBag(5, 3, padding_idx=3), lambda: torch.tensor([[0, 3], [3, 3], [1, 2]])),
    "EmbeddingBag_max": (lambda: nn.EmbeddingBag(5, 3, mode="max", padding_idx=3), lambda: torch.tensor([[0, 3], [3, 3]])),
    "BatchNorm3d": (lambda: nn.BatchNorm3d(2), lambda: floats(2, 2, 2, 3, 2)),
    "GroupNorm": (lambda: nn.GroupNorm(2, 6), lambda: floats(2, 6, 3)),
    "InstanceNorm1d": (lambda: nn.InstanceNorm1d(3, affine=True), lambda: floats(2, 3, 5)),
    "InstanceNorm2d": (lambda: nn.InstanceNorm2d(3), lambda: floats(2, 3, 4, 2)),
    "InstanceNorm3d": (lambda: nn.InstanceNorm3d(2, affine=True), lambda: floats(1, 2, 2, 2, 3)),
    "RMSNorm": (lambda: nn.RMSNorm((3, 4)), lambda: floats(2, 3, 4)),
    "RMSNorm_eps": (lambda: nn.RMSNorm(4, 0.1, elementwise_affine=False), lambda: floats(2, 3, 4)),
    "PReLU": (lambda: nn.PReLU(), lambda: floats(2, 3)),
    "PReLU_channels": (lambda: nn.PReLU(3), lambda: floats(2, 3, 4)),
    "ReLU6": (lambda: nn.ReLU6(), lambda: floats(4, 5) * 5),
    "SELU": (lambda: nn.SELU(), lambda: floats(3, 4)),
    "CELU": (lambda: nn.CELU(0.7), lambda: floats(3, 4)),
    "GLU": (lambda: nn.GLU(1), lambda: floats(2, 4, 3)),
    "Softmin": (lambda: nn.Softmin(0), lambda: floats(3, 4)),
    "Hardsigmoid": (lambda: nn.Hardsigmoid(), lambda: floats(4, 5) * 3),
    "Hardswish": (lambda: nn.Hardswish(), lambda: floats(4, 5) * 3),
    "Hardtanh": (lambda: nn.Hardtanh(-0.5, 1.5), lambda: floats(4, 5) * 2),
    "LogSigmoid": (lambda: nn.LogSigmoid(), lambda: floats(3, 4)),
    "Mish": (lambda: nn.Mish(), lambda: floats(4, 5) * 3),
    "Softsign": (lambda: nn.Softsign(), lambda: floats(3, 4)),
    "Tanhshrink": (lambda: nn.Tanhshrink(), lambda: floats(3, 4)),
    "Softshrink": (lambda: nn.Softshrink(0.3), lambda: floats(3, 4)),
    "Hardshrink": (lambda: nn.Hardshrink(0.3), lambda: floats(3, 4)),
    "Threshold": (lambda: nn.Threshold(0.2, -3.0), lambda: floats(3, 4)),
    "ZeroPad1d": (lambda: nn.ZeroPad1d((1, 2)), lambda: floats(2, 2, 4)),
    "ZeroPad2d": (lambda: nn.ZeroPad2d((1, 0, 2, 1)), lambda: floats(2, 3, 4)),
    "ZeroPad3d": (lambda: nn.ZeroPad3d(1), lambda: floats(1, 2, 2, 3, 2)),
    "ConstantPad1d": (lambda: nn.ConstantPad1d(2, 0.5), lambda: floats(2, 3)),
    "ConstantPad2d": (lambda: nn.ConstantPad2d((1, 2, 0, 3), -1.5), lambda: floats(2, 2, 3, 2)),
    "ConstantPad3d": (lambda: nn.ConstantPad3d((0, 1, 1, 0, 2, 0), 2.0), lambda: floats(1, 2, 2, 3, 2)),
    "ReflectionPad1d": (lambda: nn.ReflectionPad1d((2, 1)), lambda: floats(2, 2, 4)),
    "ReflectionPad2d": (lambda: nn.ReflectionPad2d((1, 2, 3, 0)), lambda: floats(2, 2, 4, 3)),
    "ReflectionPad3d": (lambda: nn.ReflectionPad3d((1, 0, 2, 1, 0, 1)), lambda: floats(1, 2, 3, 3, 2)),
    "ReplicationPad1d": (lambda: nn.ReplicationPad1d((3, 1)), lambda: floats(2, 2, 3)),
    "ReplicationPad2d": (lambda: nn.ReplicationPad2d((1, 2, 3, 0)), lambda: floats(2, 2, 2, 3)),
    "ReplicationPad3d": (lambda: nn.ReplicationPad3d((1, 0, 2, 1, 0, 1)), lambda: floats(1, 2, 3, 3, 2)),
    "CircularPad1d": (lambda: nn.CircularPad1d((2, 1)), lambda: floats(2, 2, 4)),
    "CircularPad2d": (lambda: nn.CircularPad2d((1, 2, 3, 0)), lambda: floats(2, 2, 3, 4)),
    "CircularPad3d": (lambda: nn.CircularPad3d((1, 0, 2, 1, 0, 1)), lambda: floats(1, 2, 3, 3, 2)),
    "Unflatten": (lambda: nn.Unflatten(1, (2, -1)), lambda: floats(2, 6, 3)),
    "Flatten": (lambda: nn.Flatten(1, 2), lambda: floats(2, 3, 4, 2)),
    "PixelShuffle": (lambda: nn.PixelShuffle(2), lambda: floats(2, 8, 3, 2)),
    "PixelUnshuffle": (lambda: nn.PixelUnshuffle(3), lambda: floats(2, 1, 3, 6)),
    "Upsample": (lambda: nn.Upsample(scale_factor=2), lambda: floats(2, 2, 3, 4)),
    "Upsample_down": (lambda: nn.Upsample((3, 5)), lambda: floats(1, 2, 7, 4)),
    "Upsample_exact": (lambda: nn.Upsample(scale_factor=(1.7, 0.6), mode="nearest-exact"), lambda: floats(1, 2, 5, 7)),
    "Upsample_linear": (lambda: nn.Upsample(7, mode="linear"), lambda: floats(2, 2, 3)),
    "Upsample_bilinear": (lambda: nn.Upsample(scale_factor=(2, 1.5), mode="bilinear"), lambda: floats(2, 2, 3, 4)),
    "Upsample_bilinear_down": (lambda: nn.Upsample((2, 3), mode="bilinear"), lambda: floats(1, 2, 5, 7)),
    "Upsample_corners": (lambda: nn.Upsample((5, 1), mode="bilinear", align_corners=True), lambda: floats(1, 2, 3, 4)),
    "Upsample_trilinear": (lambda: nn.Upsample((3, 2, 5), mode="trilinear", align_corners=True), lambda: floats(1, 2, 2, 3, 2)),
    "Upsample_bicubic": (lambda: nn.Upsample(scale_factor=(2.3, 0.7), mode="bicubic"), lambda: floats(1, 2, 4, 6)),
    "Upsample_bicubic_corners": (lambda: nn.Upsample((7, 3), mode="bicubic", align_corners=True), lambda: floats(1, 2, 4, 6)),
    "Upsample_area": (lambda: nn.Upsample((3, 4), mode="area"), lambda: floats(1, 2, 5, 6)),
    "Nested": (Nested, lambda: torch.tensor([[0, 5], [2, 1]])),
}


def signs(*shape: int) -> torch.Tensor:
    return torch.randint(0, 2, shape) * 2.0 - 1


# Losses and distances, of several inputs
LOSSES = {
    "BCELoss": (lambda: nn.BCELoss(torch.tensor([1.0, 0.5, 2.0])), lambda: (torch.rand(4, 3), torch.rand(4, 3))),
    "BCELoss_ends": (lambda: nn.BCELoss(), lambda: (torch.tensor([0.0, 1.0, 0.0, 1.0]), torch.tensor([0.0, 1.0, 1.0, 0.0]))),
    "SmoothL1Loss": (lambda: nn.SmoothL1Loss(beta=0.7), lambda: (floats(4, 3), floats(4, 3))),
    "GaussianNLLLoss": (lambda: nn.GaussianNLLLoss(), lambda: (floats(4, 3), floats(4, 3), torch.rand(4, 3))),
    "GaussianNLLLoss_rows": (lambda: nn.GaussianNLLLoss(full=True), lambda: (floats(4, 3), floats(4, 3), torch.rand(4, 1))),
    "PoissonNLLLoss": (lambda: nn.PoissonNLLLoss(), lambda: (floats(4, 3), torch.rand(4, 3) * 5)),
    "PoissonNLLLoss_full": (lambda: nn.PoissonNLLLoss(False, True), lambda: (torch.rand(4, 3) * 3, torch.rand(4, 3) * 5)),
    "SoftMarginLoss": (lambda: nn.SoftMarginLoss(), lambda: (floats(4, 3), signs(4, 3))),
    "HingeEmbeddingLoss": (lambda: nn.HingeEmbeddingLoss(margin=0.8), lambda: (torch.rand(4, 3) * 2, signs(4, 3))),
    "MultiMarginLoss": (lambda: nn.MultiMarginLoss(margin=0.5), lambda: (floats(4, 3), torch.tensor([0, 2, 1, 1]))),
    "MultiMarginLoss_weight": (
        lambda: nn.MultiMarginLoss(2, weight=torch.tensor([1.0, 0.5, 2.0])),
        lambda: (floats(4, 3), torch.tensor([0, 2, 1, 1])),
    ),
    "CosineEmbeddingLoss": (lambda: nn.CosineEmbeddingLoss(0.1), lambda: (floats(5, 3), floats(5, 3), signs(5))),
    "MarginRankingLoss": (lambda: nn.MarginRankingLoss(0.3), lambda: (floats(5), floats(5), signs(5))),
    "TripletMarginLoss": (lambda: nn.TripletMarginLoss(), lambda: (floats(5, 3), floats(5, 3), floats(5, 3))),
    "TripletMarginLoss_swap": (
        lambda: nn.TripletMarginLoss(0.5, p=3, swap=True),
        lambda: (floats(5, 3), floats(5, 3), floats(5, 3)),
    ),
    "CosineSimilarity": (lambda: nn.CosineSimilarity(), lambda: (floats(3, 4, 2), floats(3, 4, 2))),
    "PairwiseDistance": (lambda: nn.PairwiseDistance(1.0, keepdim=True), lambda: (floats(3, 4), floats(3, 4))),
    "PairwiseDistance_max": (lambda: nn.PairwiseDistance(float("inf")), lambda: (floats(3, 4), floats(3, 4))),
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
    for name, (make, examples) in LOSSES.items():
        torch.manual_seed(0)
        given = examples()
        arrays |= {f"{name}/x{i}": x.numpy() for i, x in enumerate(given)}
        for reduction in ("mean", "sum", "none") if hasattr(loss := make(), "reduction") else ("",):
            loss.reduction = reduction
            arrays[f"{name}/{reduction or 'y'}"] = loss(*given).numpy()
    np.savez_compressed(Path(__file__).with_suffix(".npz"), **arrays)
