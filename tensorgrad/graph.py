"""Graphs: recorded programs, to list, check, fuse, run and compare."""

from tensorgrad.core.graph import Graph

__all__ = ["Graph"]
