"""System B, mnist-logistic: 784-200-100-50-10, logistic sigmoids, softmax and mean cross-entropy with L2.

    python examples/mnist_logistic.py
    python examples/mnist_logistic.py --data folder        with mnist_train.csv and mnist_test.csv, as its author read them
    python examples/mnist_logistic.py --batch-size 1       stochastic; "all" is full-batch gradient descent

Mini-batches of 64 at rate 0.1, which is multiplied by 0.9 after an epoch whose cost rose, for 50 epochs; weights by "xavier"
or "he", biases 0; lambda 0.01. The update is as its author wrote it, W - lr/m (sum of gradients + lambda W) for a batch of m
samples. That descends the cost mean cross-entropy + (lambda/2m) sum of W², which is what is given to fit; the cost that he
wrote down has lambda/m there (l2=LAMBDA descends that one), and with the optimiser's weight_decay biases would shrink, too.

Half of the epochs are trained, and saved to one .npz file: parameters, learning rate, order of the images, history. The other
half is trained by a new network that goes on from the file, as on another day; it makes no difference to the last bit.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import common
import numpy as np
from tensorgrad.models import MLP

from tensorgrad import data, draw, nn, optim, train
from tensorgrad.nn import functional as F
from tensorgrad.nn import init
from tensorgrad.train.metrics import accuracy

INIT = {"xavier": init.xavier_uniform(), "he": init.he_normal()}
LAMBDA = 0.01


def train_until(
    epoch: int, args: argparse.Namespace, x: Any, y: Any, resume: bool
) -> tuple[nn.Module, train.History, common.Clock]:
    """A new network, trained up to an epoch: from its initial weights, or from the file."""
    rng = np.random.default_rng(args.seed)
    model = MLP((784, 200, 100, 50, 10), "logistic", weight_init=INIT[args.init], rng=rng)
    size = len(x) if args.batch_size == "all" else int(args.batch_size)
    optimiser = optim.SGD(model.parameters(), lr=0.1)
    schedule = optim.CostRise(optimiser, factor=0.9)
    batches = data.DataLoader(x, y, batch_size=size, shuffle=True, rng=rng, device=args.device)
    file = args.out / "mnist_logistic.npz"
    with common.training(model, args.device) as clock:
        history = train.fit(
            model,
            F.cross_entropy,
            optimiser,
            batches,
            epoch,
            l2=LAMBDA / 2,
            schedule=schedule,
            metrics=[accuracy],
            checkpoint=file,
            resume=resume,
        )
    return model, history, clock


def main(argv: Sequence[str] | None = None) -> common.Result:
    parser = common.mnist_flags(__doc__, epochs=50)
    parser.add_argument("--batch-size", default="64", help='samples in a batch, or "all" (default: 64)')
    parser.add_argument("--init", choices=INIT, default="xavier", help="initial weights (default: xavier)")
    args = parser.parse_args(argv)
    x, y, x_test, y_test = common.images(args)
    x, x_test = (pixels.astype(np.float32) / 255 for pixels in (x, x_test))
    args.out.mkdir(parents=True, exist_ok=True)

    half = (args.epochs + 1) // 2
    _, _, before = train_until(half, args, x, y, resume=False)
    print(f"{half} epochs are in {args.out / 'mnist_logistic.npz'}; a new network goes on from there")
    model, history, after = train_until(args.epochs, args, x, y, resume=True)

    said, said_test = (train.predict(model, images).argmax(axis=1) for images in (x, x_test))
    seconds = before.wall + after.wall
    result = common.Result("B mnist-logistic", args.dataset, seconds, written=[args.out / "mnist_logistic.npz"])
    result.add("train accuracy", "98.41 %", common.percent(accuracy(said, y)))
    result.add("test accuracy", "96.71 %", common.percent(accuracy(said_test, y_test)))
    result.add("time", "345 s on 8 cores", f"{seconds:.1f} s ({before.cpu + after.cpu:.1f} s of the processor)")
    names = common.NAMES.get(args.dataset)
    result.save(draw.network(model), args.out / "mnist_logistic-neurons.png")
    result.save(history.plot(title="784-200-100-50-10, cost per epoch"), args.out / "mnist_logistic-cost.png")
    grid = draw.predictions(x_test[:12], y_test[:12], said_test[:12], names=names, columns=4)
    result.save(grid, args.out / "mnist_logistic-predictions.png")
    print(result)
    return result


if __name__ == "__main__":
    main()
