"""One seed for all random numbers that are drawn where no generator is given."""

from __future__ import annotations

import numpy as np

from tensorgrad.core.arguments import seed_of
from tensorgrad.core.forks import loading
from tensorgrad.core.state import state


def manual_seed(value: int | None) -> None:
    """Start anew, each with a seed of its own, the generators of initial values, of what is drawn on the way (dropout's masks,
    `rand`, `randn`), and of the order in which DataLoaders and `train.fit` shuffle, where none is given: what follows is
    reproducible. None for a seed that nobody knows.
    """
    value = seed_of("manual_seed", value)
    if state.trace is not None:
        state.trace.forbid("manual_seed()")
    with loading:
        from tensorgrad.data import loader
        from tensorgrad.nn import init
        from tensorgrad.ops import random

    of_values, of_masks, of_orders = np.random.SeedSequence(value).generate_state(3, np.uint64).tolist()
    init.seed(of_values)
    random.seed(of_masks)
    loader.seed(of_orders)
