"""Exceptions, which also derive from those that NumPy and PyTorch raise in these cases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class TensorgradError(Exception):
    """Base of all errors that tensorgrad raises deliberately.

    graph   the recorded graph when an operation failed, the failing node last (a tensorgrad.graph.Graph); else None
    """

    graph: Any = None


class ShapeError(TensorgradError, ValueError, RuntimeError):
    """Shapes that do not fit (NumPy raises ValueError here, PyTorch RuntimeError)."""


class ArgumentError(TensorgradError, TypeError, ValueError):
    """An argument, or a part of a model, of the wrong type, size or name."""


class OutOfRangeError(TensorgradError, IndexError, ValueError):
    """An index out of range (NumPy and PyTorch raise IndexError here)."""


class DTypeError(TensorgradError, TypeError, RuntimeError):
    """A dtype that an operation does not support, or a gradient requested for integers."""


class LabelError(TensorgradError, ValueError, IndexError):
    """A class index outside 0 .. classes-1 (PyTorch raises IndexError here)."""


class GraphError(TensorgradError, RuntimeError):
    """A gradient that the recorded graph cannot provide."""


class AnomalyError(TensorgradError, ArithmeticError, RuntimeError):
    """A NaN or an infinity, found by detect_anomaly()."""


class BatchError(TensorgradError, RuntimeError):
    """Something that vmap cannot do for all samples at once, such as a Python branch on their values."""


class CompileError(TensorgradError, RuntimeError):
    """A step that cannot be replayed faithfully; the message names the line."""


class ExportError(TensorgradError, ValueError, RuntimeError):
    """A model that cannot be exported to a file or converted to another library; the message names the operations or layers."""


class DeviceError(TensorgradError, ValueError, RuntimeError):
    """A device that does not exist, or arrays on different devices in one operation (PyTorch raises RuntimeError here)."""


class DeviceMemoryError(TensorgradError, MemoryError, RuntimeError):
    """Out of memory; the message has the sizes. Existing arrays are unchanged."""


class DataError(TensorgradError, ValueError):
    """A data file that does not match its name or header."""


class CheckpointError(DataError):
    """A checkpoint that cannot be read, or does not fit the objects to restore; the message names the file."""


class TrainingError(TensorgradError, ValueError, ArithmeticError, RuntimeError):
    """A loss that is not finite; the message names epoch and batch.

    history   the epochs before it (a tensorgrad.train.History)
    """

    history: Any = None


class RankError(TensorgradError, RuntimeError):
    """A lost process, or failed communication, in distributed training.

    gone   the lost ranks, if the others continue, renumbered, without them
    """

    def __init__(self, text: str, gone: Sequence[int] = ()) -> None:
        super().__init__(text)
        self.gone = tuple(gone)


class DownloadError(TensorgradError, OSError):
    """A file that no mirror provided; the message has each error, and says how to continue without network access."""


class MissingDependencyError(TensorgradError, ImportError):
    """An optional package is not installed; the message says what to install."""


class InstallationError(TensorgradError, ImportError):
    """The package folder is mixed with files of another project, or lost some to it; the message says what to do."""
