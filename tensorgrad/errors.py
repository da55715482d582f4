"""What goes wrong, as exceptions that fit the habits of NumPy's and of PyTorch's users alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class TensorgradError(Exception):
    """Base of every error that tensorgrad raises on purpose.

    graph   what had been recorded when an operation failed, the failing node last (a tensorgrad.graph.Graph); else None
    """

    graph: Any = None


class ShapeError(TensorgradError, ValueError, RuntimeError):
    """Shapes that do not fit (NumPy raises ValueError here, PyTorch RuntimeError)."""


class ArgumentError(TensorgradError, TypeError, ValueError):
    """An argument, or a part of a model, of another kind, size or name than what is asked for."""


class OutOfRangeError(TensorgradError, IndexError, ValueError):
    """An index that an array does not have (NumPy and PyTorch raise IndexError here)."""


class DTypeError(TensorgradError, TypeError, RuntimeError):
    """A dtype that an operation cannot take, or a gradient asked for where there is none."""


class LabelError(TensorgradError, ValueError, IndexError):
    """A class index outside 0 .. classes-1 (PyTorch raises IndexError here)."""


class GraphError(TensorgradError, RuntimeError):
    """A gradient asked for that the recorded graph cannot give."""


class AnomalyError(TensorgradError, ArithmeticError, RuntimeError):
    """A NaN or an infinity, found by detect_anomaly()."""


class BatchError(TensorgradError, RuntimeError):
    """What cannot be done for all samples of a vmap at once, such as a Python branch on their values."""


class CompileError(TensorgradError, RuntimeError):
    """A step that cannot be replayed faithfully; the message names the line."""


class ExportError(TensorgradError, ValueError, RuntimeError):
    """A model that cannot be written to a file, or made another library's; the message names the operations or the layers."""


class DeviceError(TensorgradError, ValueError, RuntimeError):
    """A device that is not there, or arrays of several devices in one operation (PyTorch raises RuntimeError here)."""


class DeviceMemoryError(TensorgradError, MemoryError, RuntimeError):
    """No memory for a result; the message has the sizes. What was there before still is."""


class DataError(TensorgradError, ValueError):
    """A data file that is not what its name or header says."""


class CheckpointError(DataError):
    """A checkpoint that cannot be read, or does not fit what it is loaded into; the message names the file."""


class TrainingError(TensorgradError, ValueError, ArithmeticError, RuntimeError):
    """A loss that is not finite; the message names the epoch and the batch.

    history   of the epochs before it (a tensorgrad.train.History)
    """

    history: Any = None


class RankError(TensorgradError, RuntimeError):
    """A process of a distributed training that is gone, or a meeting of them that has failed.

    gone   which ranks, if others go on without them; they have other numbers from then on
    """

    def __init__(self, text: str, gone: Sequence[int] = ()) -> None:
        super().__init__(text)
        self.gone = tuple(gone)


class DownloadError(TensorgradError, OSError):
    """A file that no mirror gave; the message has the reason of each, and says how to go on without the network."""


class MissingDependencyError(TensorgradError, ImportError):
    """An optional package is not installed; the message says what to install."""


class InstallationError(TensorgradError, ImportError):
    """The folder of the package has files of another project in it, or has lost some to it; the message says what to do."""
