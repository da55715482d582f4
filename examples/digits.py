"""System A, digits-6x500: train a 64-500x6-10 network on scikit-learn's digits, prove its gradients, draw its training step.

    python examples/digits.py                       mini-batches of 32, SGD with momentum 0.9 at rate 0.001
    python examples/digits.py --recipe document     full-batch gradient descent at rate 0.01, as first published

The network, its initial weights N(0, 0.1²), the split (1439 / 178 / 180) and the scaling are those of the published recipe.
Mini-batches take some 20 epochs of 45 steps where full-batch descent takes thousands of steps; the rate is the largest
that trained smoothly on the dev split. Training ends when the accuracy there has not risen for a while, and the parameters
kept are those with the best one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import common
import numpy as np
from tensorgrad.models import MLP, handwritten

import tensorgrad
from tensorgrad import Tensor, data, draw, nn, optim, train
from tensorgrad.errors import MissingDependencyError
from tensorgrad.nn import functional as F
from tensorgrad.nn import init
from tensorgrad.testing import numerical_gradient
from tensorgrad.train.metrics import accuracy

RECIPES: dict[str, dict[str, Any]] = {
    "minibatch": {"batch_size": 32, "lr": 0.001, "momentum": 0.9, "epochs": 60, "patience": 20},
    "document": {"batch_size": None, "lr": 0.01, "momentum": 0.0, "epochs": 30_000, "patience": 3000},
}
ENTRIES = 20  # of each parameter, drawn at random, are compared with numerical derivatives


def gradient_table(model: nn.Sequential, x: np.ndarray, y: np.ndarray, seed: int) -> str:
    """One row a parameter: the largest difference of the recorded gradient from the other two, in float64."""
    params = dict(model.named_parameters())
    for p in params.values():
        p.data, p.grad = p.data.astype(np.float64), None
    images = Tensor(x, dtype="float64")

    def loss() -> Tensor:
        return F.cross_entropy(model(images), y)

    loss().backward()

    layers = [(m.weight.data, m.bias.data) for m in model if isinstance(m, nn.Linear) and m.bias is not None]
    by_hand = handwritten.gradients(images.data, handwritten.one_hot(y, 10), layers, "relu", "cross_entropy")
    formulas = [array for layer in by_hand for array in layer]

    rng = np.random.default_rng(seed)
    rows = [f"{'parameter':12} {'shape':>10} {'largest |g|':>12} {'- by hand':>11} {'- numerical':>12}"]
    for (name, p), formula in zip(params.items(), formulas, strict=True):
        recorded = p.grad.numpy()
        entries = [tuple(int(rng.integers(0, n)) for n in p.shape) for _ in range(ENTRIES)]
        with tensorgrad.no_grad():
            numerical = numerical_gradient(lambda: loss().item(), p.data, entries)
        of_hand = np.abs(recorded - formula).max()
        of_numerical = max(abs(recorded[i] - n) for i, n in zip(entries, numerical, strict=True))
        shape = "x".join(map(str, p.shape))
        rows.append(f"{name:12} {shape:>10} {np.abs(recorded).max():12.3e} {of_hand:11.1e} {of_numerical:12.1e}")
    return "\n".join(rows)


def draw_step(model: nn.Sequential, x: np.ndarray, y: np.ndarray) -> draw.Drawing:
    """The graph of one training step, forward and backward, as fusion makes of it."""
    loss = F.cross_entropy(model(Tensor(x, name="images")), Tensor(y, name="labels"))
    return draw.graph(loss, backward=True, fused=True, title="One training step of the digits network")


def main(argv: Sequence[str] | None = None) -> common.Result:
    parser = common.flags(__doc__, "the recipe's own number")
    parser.add_argument("--recipe", choices=RECIPES, default="minibatch")
    parser.add_argument("--patience", type=int, help="stop after so many epochs without a better dev accuracy")
    args = parser.parse_args(argv)
    given = {name: value for name in ("epochs", "patience") if (value := getattr(args, name)) is not None}
    recipe = RECIPES[args.recipe] | given

    x, y = data.load_digits() if args.data is None else data.read_csv(args.data / "digits.csv", label=-1)
    x_rest, y_rest, x_test, y_test = data.split(data.min_max(x), y, 0.10, seed=args.seed)
    x_train, y_train, x_dev, y_dev = data.split(x_rest, y_rest, 0.11, seed=args.seed)
    print(f"digits: {len(x_train)} train, {len(x_dev)} dev, {len(x_test)} test; recipe {args.recipe}: {recipe}")

    rng = np.random.default_rng(args.seed)
    model = MLP((64, *[500] * 6, 10), weight_init=init.normal(0.1), rng=rng)
    optimiser = optim.SGD(model.parameters(), recipe["lr"], momentum=recipe["momentum"])
    size = recipe["batch_size"]
    batches = data.DataLoader(x_train, y_train, batch_size=size, shuffle=size is not None, rng=rng, device=args.device)
    dev = data.DataLoader(x_dev, y_dev, batch_size=None, device=args.device)
    best = train.EarlyStopping("val_accuracy", recipe["patience"])
    with common.training(model, args.device) as clock:
        history = train.fit(
            model, F.cross_entropy, optimiser, batches, recipe["epochs"], validation=dev, metrics=[accuracy], callbacks=[best]
        )

    result = common.Result("A digits-6x500", "digits", clock.wall)
    shares = [
        accuracy(train.predict(model, images), labels)
        for images, labels in ((x_train, y_train), (x_dev, y_dev), (x_test, y_test))
    ]
    result.add("test accuracy", "96.11 %", common.percent(shares[2]))
    result.add("train accuracy, highest", "100 %", common.percent(max(history["accuracy"])))
    result.add("dev accuracy, of the parameters kept", "-", common.percent(shares[1]))
    result.add("epochs", "25,000-30,000", f"kept {best.best_epoch:,} of {len(history['loss']):,}")
    result.add("time", "-", f"{clock.wall:.1f} s")

    args.out.mkdir(parents=True, exist_ok=True)
    train.save(args.out / "digits.npz", model=model, history=history)
    result.written.append(args.out / "digits.npz")
    every = 100 if args.recipe == "document" else 1
    curves = history.plot(best=best.best_epoch, every=every, title="Digits, 64-500x6-10: the dev split as validation")
    result.save(curves, args.out / "digits-curves.png")
    picture = draw_step(model, x_train[:32], y_train[:32])
    try:
        result.written.append(picture.save(args.out / "digits-step.svg"))
    except MissingDependencyError as missing:
        result.written.append(args.out / "digits-step.dot")
        print(f"no .svg: {missing}")

    print(f"recorded gradients, float64, against the formulas and against numerical ones ({ENTRIES} entries each):")
    print(gradient_table(model, x_train[:32], y_train[:32], args.seed), end="\n\n")
    print(result)
    return result


if __name__ == "__main__":
    main()
