"""Models on top of tensorgrad: the multi-layer perceptron, and the same networks written by hand in NumPy."""

from models.mlp import MLP, MLPClassifier

__all__ = ["MLP", "MLPClassifier"]
