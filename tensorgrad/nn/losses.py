"""Losses as modules, for where a module is wanted; `nn.functional` has the formulas."""

from __future__ import annotations

from typing import Any, ClassVar

from tensorgrad.nn import functional as F
from tensorgrad.nn.arguments import one_of, real, weights, whole
from tensorgrad.nn.loss import REDUCTIONS
from tensorgrad.nn.module import Module

__all__ = ["BCEWithLogitsLoss", "CrossEntropyLoss", "HuberLoss", "KLDivLoss", "L1Loss", "MSELoss", "NLLLoss"]


class Loss(Module):
    """A loss between what is predicted and a target; `reduction` is "mean", "sum" or "none"."""

    reductions: ClassVar[tuple[str, ...]] = REDUCTIONS

    def __init__(self, *, reduction: str = "mean") -> None:
        super().__init__()
        self.reduction = one_of(type(self).__name__, "reduction", reduction, self.reductions)

    def extra_repr(self) -> str:
        return f"reduction={self.reduction!r}"


class CrossEntropyLoss(Loss):
    """Of logits (..., classes) and class indices (...) or probabilities; see nn.functional.cross_entropy."""

    def __init__(
        self,
        weight: Any = None,
        *,
        ignore_index: int | None = None,
        label_smoothing: float = 0.0,
        reduction: str = "mean",
    ) -> None:
        super().__init__(reduction=reduction)
        of = type(self).__name__
        self.weight = weights(of, "weight", weight, 1)
        self.ignore_index = None if ignore_index is None else whole(of, "ignore_index", ignore_index, None)
        self.label_smoothing = real(of, "label_smoothing", label_smoothing, 0, 1)

    def forward(self, logits: Any, target: Any) -> Any:
        return F.cross_entropy(
            logits,
            target,
            self.weight,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            reduction=self.reduction,
        )


class NLLLoss(Loss):
    """Of log-probabilities (..., classes) and class indices (...); see nn.functional.nll_loss."""

    def __init__(self, weight: Any = None, *, ignore_index: int | None = None, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)
        self.weight = weights(type(self).__name__, "weight", weight, 1)
        self.ignore_index = None if ignore_index is None else whole(type(self).__name__, "ignore_index", ignore_index, None)

    def forward(self, logp: Any, target: Any) -> Any:
        return F.nll_loss(logp, target, self.weight, ignore_index=self.ignore_index, reduction=self.reduction)


class MSELoss(Loss):
    """(input - target)²; see nn.functional.mse_loss."""

    def forward(self, input: Any, target: Any) -> Any:
        return F.mse_loss(input, target, reduction=self.reduction)


class L1Loss(Loss):
    """|input - target|; see nn.functional.l1_loss."""

    def forward(self, input: Any, target: Any) -> Any:
        return F.l1_loss(input, target, reduction=self.reduction)


class HuberLoss(Loss):
    """Quadratic up to `delta`, linear beyond; see nn.functional.huber_loss."""

    def __init__(self, *, delta: float = 1.0, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)
        self.delta = real(type(self).__name__, "delta", delta, 0, above=True)

    def forward(self, input: Any, target: Any) -> Any:
        return F.huber_loss(input, target, delta=self.delta, reduction=self.reduction)


class KLDivLoss(Loss):
    """Of log-probabilities and probabilities; see nn.functional.kl_div, which knows "batchmean" too."""

    reductions = (*REDUCTIONS, "batchmean")

    def forward(self, logp: Any, target: Any) -> Any:
        return F.kl_div(logp, target, reduction=self.reduction)


class BCEWithLogitsLoss(Loss):
    """Of logits and probabilities of the same shape; see nn.functional.binary_cross_entropy_with_logits."""

    def __init__(self, weight: Any = None, *, pos_weight: Any = None, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)
        self.weight = weights(type(self).__name__, "weight", weight)
        self.pos_weight = weights(type(self).__name__, "pos_weight", pos_weight)

    def forward(self, logits: Any, target: Any) -> Any:
        return F.binary_cross_entropy_with_logits(
            logits, target, self.weight, pos_weight=self.pos_weight, reduction=self.reduction
        )
