"""ONNX files: `export` writes a model for onnxruntime and others, `load` reads one."""

from tensorgrad.onnx.export import export
from tensorgrad.onnx.load import load

__all__ = ["export", "load"]
