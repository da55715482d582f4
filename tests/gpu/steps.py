"""One training step of each workload on a GPU, in each library; a step returns a loss that is still on its way.

As tests.benchmarks.steps, whose weights and rate these have: forward, backward, update of plain SGD, float32 parameters. The
libraries are used as their documentation recommends for speed; "tf32" lets products round their inputs to 10 bits.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

import tensorgrad
from tensorgrad import Tensor, nn, optim
from tensorgrad.nn import functional as F
from tests.benchmarks.steps import LR, WORKLOADS, weights

WIDE: dict[str, tuple[tuple[int, ...], int]] = {"wide": ((4096, 4096, 4096, 4096, 4096), 8192)}
ON_GPU = {name: WORKLOADS[name] for name in ("W1", "W2", "W3", "W3b", "W4")} | WIDE

Step = Callable[[], Any]  # what it returns becomes the loss by float(), which waits for the GPU


def tensorgrad_step(
    widths: tuple[int, ...], x: np.ndarray, y: np.ndarray, compiled: bool = True, precision: str = "float32"
) -> Step:
    tensorgrad.set_matmul_precision(precision)
    layers: list[nn.Module] = []
    for w, b in weights(widths):
        layer = nn.Linear(*w.shape)
        layer.load_state_dict({"weight": w, "bias": b})
        layers += [layer, nn.ReLU()]
    model = nn.Sequential(*layers[:-1])
    model.to("cuda")
    optimiser = optim.SGD(model.parameters(), lr=LR)

    def train(x: Tensor, y: Tensor) -> Tensor:
        loss = F.cross_entropy(model(x), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return loss

    step = tensorgrad.compile(train) if compiled else train
    xb, yb = Tensor(x, device="cuda"), Tensor(y, device="cuda")
    return lambda: step(xb, yb)


def torch_step(
    widths: tuple[int, ...], x: np.ndarray, y: np.ndarray, compiled: bool = False, tf32: bool = False, inputs: Any = None
) -> Step:
    """Compiled: the loss with its gradients and the update, each as CUDA graphs, by mode="max-autotune".

    inputs   Tensors on the GPU to read in each step, in the place of copies of x and y
    """
    import torch

    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    layers: list[Any] = []
    for w, b in weights(widths):
        layer = torch.nn.Linear(*w.shape)
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(w.T.copy()))
            layer.bias.copy_(torch.from_numpy(b))
        layers += [layer, torch.nn.ReLU()]
    model = torch.nn.Sequential(*layers[:-1]).cuda()
    optimiser = torch.optim.SGD(model.parameters(), lr=LR, foreach=True)
    tx, ty = (torch.from_numpy(x).cuda(), torch.from_numpy(y).cuda()) if inputs is None else inputs

    def forward(x: Any, y: Any) -> Any:
        return torch.nn.functional.cross_entropy(model(x), y)

    loss_of = torch.compile(forward, mode="max-autotune") if compiled else forward

    def step() -> Any:
        loss = loss_of(tx, ty)
        optimiser.zero_grad(set_to_none=not compiled)
        loss.backward()
        optimiser.step()
        return loss.detach()

    return step


def torch_graph_step(widths: tuple[int, ...], x: np.ndarray, y: np.ndarray, tf32: bool = False) -> Step:
    """The whole eager step, captured into one CUDA graph as PyTorch's documentation shows: what it is called with is copied
    to what the graph reads, and what it returns is a copy, as in a compiled step of ours."""
    import torch

    given = torch.from_numpy(x).cuda(), torch.from_numpy(y).cuda()
    own = [a.clone() for a in given]
    step = torch_step(widths, x, y, tf32=tf32, inputs=own)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    first: list[Any] = []
    with torch.cuda.stream(stream):
        first += [step().clone() for _ in range(3)]  # these train too, so their losses are the first ones
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step()

    def replay() -> Any:
        if first:
            return first.pop(0)
        for a, b in zip(own, given, strict=True):
            a.copy_(b)
        graph.replay()
        return loss.clone()

    return replay


def jax_step(widths: tuple[int, ...], x: np.ndarray, y: np.ndarray) -> Step:
    import jax
    import jax.numpy as jnp

    def loss_of(layers: Any, x: Any, y: Any) -> Any:
        for w, b in layers[:-1]:
            x = jax.nn.relu(x @ w + b)
        w, b = layers[-1]
        logp = jax.nn.log_softmax(x @ w + b)
        return -jnp.take_along_axis(logp, y[:, None], axis=1).mean()

    @partial(jax.jit, donate_argnums=0)
    def update(layers: Any, x: Any, y: Any) -> Any:
        loss, grads = jax.value_and_grad(loss_of)(layers, x, y)
        return jax.tree_util.tree_map(lambda p, g: p - LR * g, layers, grads), loss

    state = [[(jnp.asarray(w), jnp.asarray(b)) for w, b in weights(widths)]]
    jx, jy = jnp.asarray(x), jnp.asarray(y)

    def step() -> Any:
        state[0], loss = update(state[0], jx, jy)
        return loss

    return step


PEERS: dict[str, tuple[str, Callable[[tuple[int, ...], np.ndarray, np.ndarray], Step]]] = {  # package, what makes a step
    "tensorgrad": ("cupy", tensorgrad_step),
    "tensorgrad eager": ("cupy", partial(tensorgrad_step, compiled=False)),
    "tensorgrad tf32": ("cupy", partial(tensorgrad_step, precision="tf32")),
    "PyTorch eager": ("torch", torch_step),
    "PyTorch max-autotune": ("torch", partial(torch_step, compiled=True)),
    "PyTorch CUDA graph": ("torch", torch_graph_step),
    "PyTorch CUDA graph tf32": ("torch", partial(torch_graph_step, tf32=True)),
    "JAX jit": ("jax", jax_step),
}
