"""System E, mnist-llayer: 784-45-10 or any list of widths, ReLU or sigmoid, softmax and mean cross-entropy.

    python examples/mnist_llayer.py
    python examples/mnist_llayer.py --widths 100 50 --activation sigmoid

Full-batch gradient descent on the first 5,000 training images, pixels divided by 256, weights from N(0, 0.1²), biases 0. What
was published names neither the rate nor the number of iterations; 500 at rate 0.1 take seconds where it took "10-20 minutes".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import common
import numpy as np
from tensorgrad.models import MLP

from tensorgrad import Tensor, data, draw, nn, optim, train
from tensorgrad.nn import functional as F
from tensorgrad.nn import init
from tensorgrad.train.metrics import accuracy

GOLDEN = [  # the probabilities of classes 0 to 2 for five images, as published
    [0.10106734, 0.10045152, 0.09927757, 0.10216656, 0.1],
    [0.10567625, 0.10230873, 0.10170271, 0.11250099, 0.1],
    [0.09824287, 0.0992886, 0.09967128, 0.09609693, 0.1],
]


def golden(x: Any) -> int:
    """How many of the published probabilities a 784-3-7-10 network with the published weights gives, to all printed digits."""
    model = MLP((784, 3, 7, 10), dtype=np.float64)
    rng = np.random.RandomState(2)
    for layer in model:
        if isinstance(layer, nn.Linear):
            layer.weight.data = rng.randn(*layer.weight.shape[::-1]).T * 0.1  # drawn as (out, in)
    probabilities = F.softmax(model(Tensor(x[10:15] / 256))).numpy()
    return int(np.sum(np.round(probabilities.T[:3], 8) == GOLDEN))


def main(argv: Sequence[str] | None = None) -> common.Result:
    parser = common.mnist_flags(__doc__, epochs=500)
    parser.add_argument("--widths", type=int, nargs="*", default=[45], help="of the hidden layers (default: 45)")
    parser.add_argument("--activation", choices=("relu", "sigmoid"), default="relu", help="default: relu")
    args = parser.parse_args(argv)
    x, y, x_test, y_test = common.images(args)
    result = common.Result("E mnist-llayer", args.dataset, 0.0)
    if args.dataset == "mnist":
        result.add("golden probabilities, to 8 digits", "15", f"{golden(x)} equal")
    x, y = x[:5000].astype(np.float32) / 256, y[:5000]
    x_test = x_test.astype(np.float32) / 256

    widths = (784, *args.widths, 10)
    activation = "logistic" if args.activation == "sigmoid" else "relu"
    model = MLP(widths, activation, weight_init=init.normal(0.1), rng=np.random.default_rng(args.seed))
    optimiser = optim.SGD(model.parameters(), lr=0.1)
    batch, test = (data.DataLoader(*a, batch_size=None, device=args.device) for a in ((x, y), (x_test, y_test)))
    with common.training(model, args.device) as clock:
        history = train.fit(model, F.cross_entropy, optimiser, batch, args.epochs, validation=test, metrics=[accuracy])

    probabilities = F.softmax(train.predict(model, x_test))
    said, said_test = train.predict(model, x).argmax(axis=1), probabilities.argmax(axis=1)
    result.seconds = clock.wall
    result.add("train accuracy, 5,000 images", "about 88 %", common.percent(accuracy(said, y)))
    result.add("test accuracy", "87 %", common.percent(accuracy(said_test, y_test)))
    result.add("time", "10-20 minutes", f"{clock.wall:.1f} s")
    title = f"{'-'.join(map(str, widths))}: the test set as validation"
    result.save(history.plot(title=title), args.out / "mnist_llayer-curves.png")
    names = common.NAMES.get(args.dataset)
    wrong = draw.mistakes(x_test, y_test, said_test, probabilities=probabilities, names=names, limit=40)
    result.save(wrong, args.out / "mnist_llayer-mistakes.png")
    print(result)
    return result


if __name__ == "__main__":
    main()
