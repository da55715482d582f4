"""One seed for all default random generators."""

from __future__ import annotations

import numpy as np

from tensorgrad.core.arguments import seed_of
from tensorgrad.core.forks import loading
from tensorgrad.core.state import state


def manual_seed(value: int | None) -> None:
    """Seed all default generators: those of initial values, of random operations (dropout, `rand`, `randn`), and of the
    shuffling in DataLoader and `train.fit`. Each gets a different seed derived from `value`; None for an unpredictable seed.
    """
    value = seed_of("manual_seed", value)
    if state.trace is not None:
        state.trace.forbid("manual_seed()")
    with loading:
        from tensorgrad.data import loader
        from tensorgrad.nn import init
        from tensorgrad.ops import random

    init_seed, mask_seed, loader_seed = np.random.SeedSequence(value).generate_state(3, np.uint64).tolist()
    init.seed(init_seed)
    random.seed(mask_seed)
    loader.seed(loader_seed)
