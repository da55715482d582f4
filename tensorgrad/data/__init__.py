"""Data sets, and the steps between a data set and a batch."""

from tensorgrad.data.digits import load_digits
from tensorgrad.data.mnist import load_mnist, read_idx
from tensorgrad.data.prepare import batches, min_max, split

__all__ = ["batches", "load_digits", "load_mnist", "min_max", "read_idx", "split"]
