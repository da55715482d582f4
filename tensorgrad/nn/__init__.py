"""Neural networks: modules with parameters, layers, initialisers, and losses as functions (`nn.functional`)."""

from tensorgrad.nn import functional, init
from tensorgrad.nn.layers import Linear, ReLU, Sequential, Sigmoid, Tanh
from tensorgrad.nn.module import Module, Parameter

__all__ = ["Linear", "Module", "Parameter", "ReLU", "Sequential", "Sigmoid", "Tanh", "functional", "init"]
