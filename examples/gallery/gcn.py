"""A graph network: the groups of the nodes of a graph from three labels in each (Kipf and Welling 2017).

    python examples/gallery/gcn.py

With Â = D^-1/2 (A + 1) D^-1/2, A the adjacency matrix and D the degrees of A + 1, the logits are z = Â relu(Â X W + b) V + c.
The loss is the cross-entropy of the nodes S that have a label

    L = -1/|S| Σ_i∈S log softmax(z_i)[y_i]

Twice the same: with Â as a matrix, and by edges, where messages are taken from the nodes at which edges begin, and `put` adds
them up at those at which they end.
"""

from __future__ import annotations

import numpy as np
from pages import Losses, show

import tensorgrad
from tensorgrad import nn, optim
from tensorgrad.nn import functional as F


def graph() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Features (60, 8), groups (60), edges (2, e), their weights in Â (e, 1), and the nodes that have a label."""
    rng = np.random.default_rng(1)
    y = np.arange(60) % 3
    meets = np.triu(rng.random((60, 60)) < np.where(y[:, None] == y, 0.3, 0.03), 1)
    edges = np.stack(np.nonzero(meets | meets.T | np.eye(60, dtype=bool)))
    degree = np.bincount(edges[0])
    weights = 1 / np.sqrt(degree[edges[0]] * degree[edges[1]])
    return rng.normal(size=(60, 8)).astype("f"), y, edges, weights.astype("f")[:, None], np.arange(9)


class GCN(nn.Module):
    def __init__(self, rng: np.random.Generator) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 16, rng=rng), nn.Linear(16, 3, rng=rng)

    def forward(self, spread, x):
        return self.second(spread(self.first(spread(x)).relu()))


def model(rng: np.random.Generator) -> nn.Module:
    return GCN(rng)


def losses(steps: int, compiled: bool = True) -> Losses:
    x, y, (begin, end), weights, known = graph()
    matrix = np.zeros((60, 60), np.float32)
    matrix[end, begin] = weights[:, 0]
    ways = {
        "by matrix": lambda x: matrix @ x,
        "by edges": lambda x: tensorgrad.put(x[begin] * weights, end, (60, x.shape[1])),
    }
    columns = {}
    for name, spread in ways.items():
        net = model(np.random.default_rng(0))
        optimiser = optim.Adam(net.parameters(), lr=0.02, weight_decay=5e-4)

        def step(x, net=net, optimiser=optimiser, spread=spread):
            loss = F.cross_entropy(net(spread, x)[known], y[known])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            return loss

        step = tensorgrad.compile(step) if compiled else step
        columns[name] = [step(x).item() for _ in range(steps)]
    found = net(spread, tensorgrad.Tensor(x)).argmax(axis=1).numpy()
    print(f"of the nodes without a label {np.mean((found == y)[9:]):.0%} are found")
    return columns


if __name__ == "__main__":
    show(__doc__, losses, steps=100)
