"""Data sets, preprocessing and batches."""

from tensorgrad.data.csv import read_csv
from tensorgrad.data.digits import load_digits
from tensorgrad.data.idx import read_idx
from tensorgrad.data.loader import DataLoader
from tensorgrad.data.mnist import load_fashion_mnist, load_kmnist, load_mnist
from tensorgrad.data.npz import read_npz
from tensorgrad.data.prepare import batches, min_max, split
from tensorgrad.data.storage import read_safetensors, write_safetensors

__all__ = [
    "DataLoader",
    "batches",
    "load_digits",
    "load_fashion_mnist",
    "load_kmnist",
    "load_mnist",
    "min_max",
    "read_csv",
    "read_idx",
    "read_npz",
    "read_safetensors",
    "split",
    "write_safetensors",
]
