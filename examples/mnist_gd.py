"""System C, mnist-gd: 784-500-150-10, ReLU, softmax and mean cross-entropy, full-batch gradient descent.

    python examples/mnist_gd.py
    python examples/mnist_gd.py --device cuda        as its author ran it
    python examples/mnist_gd.py --seeds 10           how far the losses spread

1000 iterations over all 60,000 images at rate 0.1, weights from N(0, 0.01²), biases 0. Its author divided the training pixels
by 255 but not the test pixels before taking the test accuracy; both figures are given here. No small number is added inside of
the logarithm: softmax and cross-entropy are differentiated as one operation on logits, which needs none.
"""

from __future__ import annotations

from collections.abc import Sequence

import common
import numpy as np
from tensorgrad.models import MLP

from tensorgrad import data, draw, optim, train
from tensorgrad.nn import functional as F
from tensorgrad.nn import init
from tensorgrad.train.metrics import accuracy

LOSSES = {10: 2.3020, 100: 2.2921, 200: 1.8743, 300: 0.7605, 400: 0.5560, 500: 0.4567, 600: 0.4030, 700: 0.3653, 800: 0.3363}
LOSSES |= {900: 0.3126, 1000: 0.2916}  # as published, by iteration


def main(argv: Sequence[str] | None = None) -> common.Result:
    parser = common.mnist_flags(__doc__, epochs=1000)
    parser.add_argument(
        "--seeds", type=int, default=1, help="train so many networks, from --seed on, and say what the losses are"
    )
    args = parser.parse_args(argv)
    x, y, x_test, y_test = common.images(args)
    result = common.Result("C mnist-gd", args.dataset, 0.0)
    names = common.NAMES.get(args.dataset)
    first = [int(np.argmax(y == label)) for label in np.unique(y)]  # the first image of each class
    result.save(draw.predictions(x[first], y[first], names=names, columns=5), args.out / "mnist_gd-samples.png")

    batch = data.DataLoader(x.astype(np.float32) / 255, y, batch_size=None, device=args.device)  # one, of all images
    runs = []
    for seed in range(args.seed, args.seed + args.seeds):
        model = MLP((784, 500, 150, 10), weight_init=init.normal(0.01), rng=np.random.default_rng(seed))
        optimiser = optim.SGD(model.parameters(), lr=0.1)
        with common.training(model, args.device) as clock:
            history = train.fit(model, F.cross_entropy, optimiser, batch, args.epochs)
        runs.append(history["loss"])
        raw, scaled = (
            accuracy(train.predict(model, pixels), y_test) for pixels in (x_test * np.float32(1), x_test / np.float32(255))
        )
        if seed == args.seed:
            result.seconds = clock.wall
            result.add("test accuracy, test pixels not scaled", "90.95 %", common.percent(raw))
            result.add("test accuracy, test pixels scaled", "-", common.percent(scaled))
            result.add("time", "-", f"{clock.wall:.0f} s")
    for iteration, published in LOSSES.items():
        if iteration <= args.epochs:
            values = [losses[iteration - 1] for losses in runs]
            spread = f"  ({min(values):.4f} to {max(values):.4f})" if args.seeds > 1 else ""
            result.add(f"loss at iteration {iteration}", f"{published:.4f}", f"{values[0]:.4f}{spread}")

    figure = draw.curves({"loss": runs[0]}, title="784-500-150-10, full batch", log_loss=False)
    figure.axes[0].plot(list(LOSSES), list(LOSSES.values()), "o", color="black", label="published")
    figure.axes[0].legend(frameon=False)
    result.save(figure, args.out / "mnist_gd-loss.png")
    print(result)
    return result


if __name__ == "__main__":
    main()
