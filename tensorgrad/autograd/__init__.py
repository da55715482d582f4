"""Gradients: the reverse walk over what was recorded, patterns fused on the way, Jacobians and Hessians, checkpointing."""

from tensorgrad.autograd.checkpointing import checkpoint
from tensorgrad.autograd.derivatives import hessian, hvp, jacobian, jvp, vjp
from tensorgrad.autograd.walk import backward, detect_anomaly, grad, no_grad

__all__ = ["backward", "checkpoint", "detect_anomaly", "grad", "hessian", "hvp", "jacobian", "jvp", "no_grad", "vjp"]
