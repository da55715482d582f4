"""Models as files of ONNX's: `export` writes one for onnxruntime and others, `load` reads one of others'."""

from tensorgrad.onnx.export import export
from tensorgrad.onnx.load import load

__all__ = ["export", "load"]
