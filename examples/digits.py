"""Train a 64-500x6-10 network on scikit-learn's digits, prove its gradients, draw its training step.

    python examples/digits.py                       mini-batches of 32, SGD with momentum 0.9 at rate 0.001
    python examples/digits.py --recipe document     full-batch gradient descent at rate 0.01, as first published

The network, its initial weights N(0, 0.1²), the split (1439 / 178 / 180) and the scaling are those of the published recipe.
Mini-batches take some 20 epochs of 45 steps where full-batch descent takes thousands of steps; the rate is the largest that
trained smoothly on the dev split, and the parameters kept are those with the best accuracy there.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

import tensorgrad
from models import MLPClassifier, handwritten
from tensorgrad import Tensor, data, draw, nn
from tensorgrad.errors import MissingDependencyError
from tensorgrad.nn import functional as F
from tensorgrad.testing import numerical_gradient

RECIPES = {
    "minibatch": {"batch_size": 32, "learning_rate_init": 0.001, "momentum": 0.9, "max_iter": 60},
    "document": {"batch_size": "full", "learning_rate_init": 0.01, "momentum": 0.0, "max_iter": 30_000},
}
ENTRIES = 20  # of each parameter, drawn at random, are compared with numerical derivatives


def load(seed: int) -> tuple[np.ndarray, ...]:
    x, y = data.load_digits()
    x_rest, y_rest, x_test, y_test = data.split(data.min_max(x), y, 0.10, seed=seed)
    x_train, y_train, x_dev, y_dev = data.split(x_rest, y_rest, 0.11, seed=seed)
    return x_train, y_train, x_dev, y_dev, x_test, y_test


def gradient_table(module: nn.Sequential, x: np.ndarray, y: np.ndarray, seed: int) -> str:
    """One row a parameter: the largest difference of the recorded gradient from the other two, in float64."""
    params = dict(module.named_parameters())
    for p in params.values():
        p.data, p.grad = p.data.astype(np.float64), None
    x = Tensor(x, dtype="float64")

    def loss() -> Tensor:
        return F.cross_entropy(module(x), y)

    loss().backward()

    layers = [(m.weight.data, m.bias.data) for m in module if isinstance(m, nn.Linear)]
    by_hand = handwritten.gradients(x.data, handwritten.one_hot(y, 10), layers, "relu", "cross_entropy")
    formulas = [array for layer in by_hand for array in layer]

    rng = np.random.default_rng(seed)
    rows = [f"{'parameter':12} {'shape':>10} {'largest |g|':>12} {'- by hand':>11} {'- numerical':>12}"]
    for (name, p), formula in zip(params.items(), formulas, strict=True):
        recorded = p.grad.numpy()
        entries = [tuple(rng.integers(0, n) for n in p.shape) for _ in range(ENTRIES)]
        with tensorgrad.no_grad():
            numerical = numerical_gradient(lambda: loss().item(), p.data, entries)
        of_hand = np.abs(recorded - formula).max()
        of_numerical = max(abs(recorded[i] - n) for i, n in zip(entries, numerical, strict=True))
        shape = "x".join(map(str, p.shape))
        rows.append(f"{name:12} {shape:>10} {np.abs(recorded).max():12.3e} {of_hand:11.1e} {of_numerical:12.1e}")
    return "\n".join(rows)


def draw_step(module: nn.Sequential, x: np.ndarray, y: np.ndarray) -> draw.Drawing:
    """The graph of one training step, forward and backward, as fusion makes of it."""
    loss = F.cross_entropy(module(Tensor(x, name="images")), Tensor(y, name="labels"))
    return draw.graph(loss, backward=True, fused=True, title="One training step of the digits network")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", choices=RECIPES, default="minibatch")
    parser.add_argument("--epochs", type=int, help="at most so many; the recipe's own number by default")
    parser.add_argument("--patience", type=int, help="stop after so many epochs without a better dev accuracy")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("output"), help="folder for what is written (default: output)")
    args = parser.parse_args()

    x_train, y_train, x_dev, y_dev, x_test, y_test = load(args.seed)
    recipe = dict(RECIPES[args.recipe])
    if args.epochs is not None:
        recipe["max_iter"] = args.epochs
    classifier = MLPClassifier(
        hidden_layer_sizes=[500] * 6,
        activation="relu",
        weight_init=nn.init.normal(0.1),
        n_iter_no_change=args.patience or (20 if args.recipe == "minibatch" else 3000),
        random_state=args.seed,
        verbose=True,
        **recipe,
    )
    print(f"digits: {len(x_train)} train, {len(x_dev)} dev, {len(x_test)} test; recipe {args.recipe}: {recipe}")
    start = time.perf_counter()
    classifier.fit(x_train, y_train, eval_set=(x_dev, y_dev))
    seconds = time.perf_counter() - start
    print(
        f"trained {classifier.n_iter_} epochs in {seconds:.1f} s, kept epoch {classifier.best_iter_}; accuracy: "
        f"train {classifier.score(x_train, y_train):.2%}, dev {classifier.score(x_dev, y_dev):.2%}, "
        f"test {classifier.score(x_test, y_test):.2%} (published: 96.11%)"
    )

    args.output.mkdir(parents=True, exist_ok=True)
    written = [args.output / "digits-model.npz"]
    np.savez(written[0], **classifier.module_.state_dict())
    written.append(args.output / "digits-curves.png")
    draw.curves(classifier.history_, best=classifier.best_iter_, title="Digits, 64-500x6-10").savefig(written[1], dpi=120)
    picture = draw_step(classifier.module_, x_train[:32], y_train[:32])
    try:
        written.append(picture.save(args.output / "digits-step.svg"))
    except MissingDependencyError as missing:
        written.append(args.output / "digits-step.dot")
        print(f"no .svg: {missing}")

    print(f"\nrecorded gradients, float64, against the formulas and against numerical ones ({ENTRIES} entries each):")
    print(gradient_table(classifier.module_, x_train[:32], y_train[:32], args.seed))
    print("\nwrote " + ", ".join(map(str, written)))


if __name__ == "__main__":
    main()
