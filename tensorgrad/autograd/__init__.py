"""Gradients: the reverse walk over recorded operations, pattern fusion, forward mode, Jacobians and Hessians, checkpointing."""

from tensorgrad.autograd.checkpointing import checkpoint
from tensorgrad.autograd.derivatives import hessian, hvp, jacfwd, jacobian, jvp, vjp
from tensorgrad.autograd.walk import backward, detect_anomaly, grad, no_grad

__all__ = ["backward", "checkpoint", "detect_anomaly", "grad", "hessian", "hvp", "jacfwd", "jacobian", "jvp", "no_grad", "vjp"]
