"""Losses as modules; `nn.functional` has the formulas."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from tensorgrad.errors import ArgumentError
from tensorgrad.nn import functional as F
from tensorgrad.nn.arguments import flag, integer, one_of, real, weights
from tensorgrad.nn.loss import REDUCTIONS
from tensorgrad.nn.module import Module

__all__ = [
    "BCELoss", "BCEWithLogitsLoss", "CTCLoss", "CosineEmbeddingLoss", "CosineSimilarity", "CrossEntropyLoss", "GaussianNLLLoss",
    "HingeEmbeddingLoss", "HuberLoss", "KLDivLoss", "L1Loss", "MSELoss", "MarginRankingLoss", "MultiMarginLoss", "NLLLoss",
    "PairwiseDistance", "PoissonNLLLoss", "SmoothL1Loss", "SoftMarginLoss", "TripletMarginLoss",
]  # fmt: skip


class Loss(Module):
    """Base of all losses; `reduction` is "mean", "sum" or "none"."""

    reductions: ClassVar[tuple[str, ...]] = REDUCTIONS

    def __init__(self, *, reduction: str = "mean") -> None:
        super().__init__()
        self.reduction = one_of(type(self).__name__, "reduction", reduction, self.reductions)

    def extra_repr(self) -> str:
        return f"reduction={self.reduction!r}"


class CrossEntropyLoss(Loss):
    """Cross-entropy of logits (..., classes) and class indices (...) or probabilities; see nn.functional.cross_entropy."""

    def __init__(
        self,
        weight: Any = None,
        *,
        ignore_index: int | None = None,
        label_smoothing: float = 0.0,
        reduction: str = "mean",
    ) -> None:
        super().__init__(reduction=reduction)
        caller = type(self).__name__
        self.weight = weights(caller, "weight", weight, 1)
        self.ignore_index = None if ignore_index is None else integer(caller, "ignore_index", ignore_index, None)
        self.label_smoothing = real(caller, "label_smoothing", label_smoothing, 0, 1)

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
    """Negative log-likelihood of log-probabilities (..., classes) and class indices (...); see nn.functional.nll_loss."""

    def __init__(self, weight: Any = None, *, ignore_index: int | None = None, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)
        self.weight = weights(type(self).__name__, "weight", weight, 1)
        self.ignore_index = None if ignore_index is None else integer(type(self).__name__, "ignore_index", ignore_index, None)

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
    """Kullback-Leibler divergence of log-probabilities and probabilities; see nn.functional.kl_div, also for "batchmean"."""

    reductions = (*REDUCTIONS, "batchmean")

    def forward(self, logp: Any, target: Any) -> Any:
        return F.kl_div(logp, target, reduction=self.reduction)


class BCEWithLogitsLoss(Loss):
    """Binary cross-entropy of logits and probabilities of the same shape; see
    nn.functional.binary_cross_entropy_with_logits.
    """

    def __init__(self, weight: Any = None, *, pos_weight: Any = None, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)
        self.weight = weights(type(self).__name__, "weight", weight)
        self.pos_weight = weights(type(self).__name__, "pos_weight", pos_weight)

    def forward(self, logits: Any, target: Any) -> Any:
        return F.binary_cross_entropy_with_logits(
            logits, target, self.weight, pos_weight=self.pos_weight, reduction=self.reduction
        )


class BCELoss(Loss):
    """Binary cross-entropy of probabilities and a target of the same shape; see nn.functional.binary_cross_entropy."""

    def __init__(self, weight: Any = None, *, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)
        self.weight = weights(type(self).__name__, "weight", weight)

    def forward(self, input: Any, target: Any) -> Any:
        return F.binary_cross_entropy(input, target, self.weight, reduction=self.reduction)


class SmoothL1Loss(Loss):
    """Quadratic up to `beta`, |d| beyond; see nn.functional.smooth_l1_loss."""

    def __init__(self, *, beta: float = 1.0, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)
        self.beta = real(type(self).__name__, "beta", beta, 0, above=True)

    def forward(self, input: Any, target: Any) -> Any:
        return F.smooth_l1_loss(input, target, beta=self.beta, reduction=self.reduction)


class GaussianNLLLoss(Loss):
    """Gaussian negative log-likelihood of means, a target and variances; see nn.functional.gaussian_nll_loss."""

    def __init__(self, *, full: bool = False, eps: float = 1e-6, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)
        self.full, self.eps = flag(type(self).__name__, "full", full), real(type(self).__name__, "eps", eps, 0)

    def forward(self, input: Any, target: Any, var: Any) -> Any:
        return F.gaussian_nll_loss(input, target, var, full=self.full, eps=self.eps, reduction=self.reduction)


class PoissonNLLLoss(Loss):
    """Poisson negative log-likelihood of rates, or their logarithms, and counts; see nn.functional.poisson_nll_loss."""

    def __init__(self, *, log_input: bool = True, full: bool = False, eps: float = 1e-8, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)
        caller = type(self).__name__
        self.log_input, self.full = flag(caller, "log_input", log_input), flag(caller, "full", full)
        self.eps = real(caller, "eps", eps, 0)

    def forward(self, input: Any, target: Any) -> Any:
        return F.poisson_nll_loss(
            input, target, log_input=self.log_input, full=self.full, eps=self.eps, reduction=self.reduction
        )


class SoftMarginLoss(Loss):
    """ln(1 + e^(-t x)); see nn.functional.soft_margin_loss."""

    def forward(self, input: Any, target: Any) -> Any:
        return F.soft_margin_loss(input, target, reduction=self.reduction)


class HingeEmbeddingLoss(Loss):
    """Hinge loss of distances and labels 1 or -1; see nn.functional.hinge_embedding_loss."""

    def __init__(self, *, margin: float = 1.0, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)
        self.margin = real(type(self).__name__, "margin", margin)

    def forward(self, input: Any, target: Any) -> Any:
        return F.hinge_embedding_loss(input, target, margin=self.margin, reduction=self.reduction)


class MultiMarginLoss(Loss):
    """Multi-class hinge loss of scores (..., classes) and class indices (...); see nn.functional.multi_margin_loss."""

    def __init__(self, weight: Any = None, *, p: int = 1, margin: float = 1.0, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)
        caller = type(self).__name__
        self.weight, self.margin = weights(caller, "weight", weight, 1), real(caller, "margin", margin)
        self.p = integer(caller, "p", p)
        if self.p not in (1, 2):
            raise ArgumentError(f"{caller}: p must be 1 or 2, got {self.p}")

    def forward(self, input: Any, target: Any) -> Any:
        return F.multi_margin_loss(input, target, self.weight, p=self.p, margin=self.margin, reduction=self.reduction)


class CosineEmbeddingLoss(Loss):
    """Loss of pairs of vectors (..., d) and labels 1 or -1 (...); see nn.functional.cosine_embedding_loss."""

    def __init__(self, *, margin: float = 0.0, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)
        self.margin = real(type(self).__name__, "margin", margin)

    def forward(self, x1: Any, x2: Any, target: Any) -> Any:
        return F.cosine_embedding_loss(x1, x2, target, margin=self.margin, reduction=self.reduction)


class MarginRankingLoss(CosineEmbeddingLoss):
    """Loss of pairs of scores, and which should be larger; see nn.functional.margin_ranking_loss."""

    def forward(self, x1: Any, x2: Any, target: Any) -> Any:
        return F.margin_ranking_loss(x1, x2, target, margin=self.margin, reduction=self.reduction)


class TripletMarginLoss(Loss):
    """Loss of anchors, positives and negatives (..., d); see nn.functional.triplet_margin_loss."""

    def __init__(
        self,
        *,
        margin: float = 1.0,
        p: float = 2.0,
        eps: float = 1e-6,
        swap: bool = False,
        reduction: str = "mean",
    ) -> None:
        super().__init__(reduction=reduction)
        caller = type(self).__name__
        self.margin, self.p, self.eps = real(caller, "margin", margin), order(caller, p), real(caller, "eps", eps, 0)
        self.swap = flag(caller, "swap", swap)

    def forward(self, anchor: Any, positive: Any, negative: Any) -> Any:
        return F.triplet_margin_loss(
            anchor,
            positive,
            negative,
            margin=self.margin,
            p=self.p,
            eps=self.eps,
            swap=self.swap,
            reduction=self.reduction,
        )


class CosineSimilarity(Module):
    """The cosine of the angle between vectors along `axis`; see nn.functional.cosine_similarity."""

    def __init__(self, axis: int = 1, eps: float = 1e-8) -> None:
        super().__init__()
        caller = type(self).__name__
        self.axis, self.eps = integer(caller, "axis", axis, None), real(caller, "eps", eps, 0)

    def forward(self, x1: Any, x2: Any) -> Any:
        return F.cosine_similarity(x1, x2, self.axis, self.eps)

    def extra_repr(self) -> str:
        return f"axis={self.axis}"


class PairwiseDistance(Module):
    """The p-norm of x1 - x2 over the last axis; see nn.functional.pairwise_distance."""

    def __init__(self, p: float = 2.0, eps: float = 1e-6, keepdims: bool = False) -> None:
        super().__init__()
        caller = type(self).__name__
        self.p, self.eps, self.keepdims = order(caller, p), real(caller, "eps", eps, 0), flag(caller, "keepdims", keepdims)

    def forward(self, x1: Any, x2: Any) -> Any:
        return F.pairwise_distance(x1, x2, self.p, self.eps, self.keepdims)

    def extra_repr(self) -> str:
        return f"{self.p}"


def order(caller: str, p: Any) -> float:
    """The order of a norm; may be infinite."""
    return math.inf if isinstance(p, float) and p == math.inf else real(caller, "p", p, 0, above=True)


class CTCLoss(Loss):
    """CTC loss of log_probs (t,n,classes), targets, input_lengths and target_lengths; see nn.functional.ctc_loss."""

    def __init__(self, blank: int = 0, *, reduction: str = "mean", zero_infinity: bool = False) -> None:
        super().__init__(reduction=reduction)
        caller = type(self).__name__
        self.blank, self.zero_infinity = integer(caller, "blank", blank), flag(caller, "zero_infinity", zero_infinity)

    def forward(self, log_probs: Any, targets: Any, input_lengths: Any, target_lengths: Any) -> Any:
        settings: dict[str, Any] = {"reduction": self.reduction, "zero_infinity": self.zero_infinity}
        return F.ctc_loss(log_probs, targets, input_lengths, target_lengths, self.blank, **settings)
