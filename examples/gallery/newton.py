"""Logistic regression by Newton's method, with a recorded Hessian, and by L-BFGS, beside scikit-learn's.

    python examples/gallery/newton.py

With t_i = ±1 and z = X w + b the loss is that of scikit-learn's LogisticRegression at C = 1,

    L(w, b) = Σ_i log(1 + exp(-t_i z_i))  +  1/2 |w|²

Newton's step is p = p - H⁻¹ ∇L, H being the matrix of the second derivatives; L-BFGS guesses H⁻¹ from gradients. float64.
"""

from __future__ import annotations

import numpy as np
from pages import Losses, show
from sklearn.linear_model import LogisticRegression

import tensorgrad
from tensorgrad import Tensor, func, optim


def points() -> tuple[np.ndarray, np.ndarray]:
    """X (200, 5), and t (200) = ±1."""
    rng = np.random.default_rng(1)
    X = rng.normal(size=(200, 5))
    return X, np.where(X @ np.array([2.0, -1.0, 0.5, 0.0, 1.0]) + 0.5 + rng.logistic(size=200) > 0, 1.0, -1.0)


def losses(steps: int, compiled: bool = True) -> Losses:
    X, t = points()

    def loss(p):
        w, b = p[:-1], p[-1]
        return (-t * (X @ w + b)).softplus().sum() + 0.5 * (w**2).sum()

    def derivatives(p):
        return loss(p), func.grad(loss)(p), tensorgrad.hessian(loss, p)

    derivatives = tensorgrad.compile(derivatives) if compiled else derivatives
    columns: Losses = {"Newton": [], "L-BFGS": []}
    p = Tensor(np.zeros(6))
    for _ in range(steps):
        value, gradient, hessian = derivatives(p)
        columns["Newton"].append(value.item())
        p = p - tensorgrad.solve(hessian, gradient)

    q = Tensor(np.zeros(6), requires_grad=True)
    optimiser = optim.LBFGS([q], max_iter=1, line_search="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        value = loss(q)
        value.backward()
        return value

    columns["L-BFGS"] = [optimiser.step(closure) for _ in range(steps)]
    reference = LogisticRegression(tol=1e-10, max_iter=1000).fit(X, t)
    coefficients = np.append(reference.coef_, reference.intercept_)
    for name, found in (("Newton", p), ("L-BFGS", q)):
        print(f"{name:8} {abs(found.detach().numpy() - coefficients).max():.1e} from scikit-learn's coefficients")
    return columns


if __name__ == "__main__":
    show(__doc__, losses, steps=15)
