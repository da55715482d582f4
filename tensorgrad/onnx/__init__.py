"""Models as files of ONNX's: `export` writes one for onnxruntime and others, `load` reads one of others'."""

from tensorgrad.onnx.export import export

__all__ = ["export"]
