"""The architecture of a model as a figure for a paper or a lecture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tensorgrad.draw.build import Builder
from tensorgrad.draw.graph import Drawing, as_names, check_layout, recorded, traced
from tensorgrad.draw.program import Options, Program
from tensorgrad.draw.titles import short_names
from tensorgrad.errors import ArgumentError
from tensorgrad.nn.module import Module


def architecture(
    model: Module,
    *inputs: Any,
    depth: int | None = None,
    fold: bool = True,
    names: Mapping[str, Module] | None = None,
    direction: str = "TB",
    title: str = "",
) -> Drawing:
    """The architecture of a model, for print: `draw.architecture(model, x).save("model.pdf")`, or "model.svg", "model.tex".

    model      a Module
    inputs     examples that it is called with; a Tensor is called by its name, an array x
    depth, fold, names, direction, title   as for draw.graph

    As draw.graph(model, x) draws it: a box for each module with its class, arguments, shape and parameters, data from input to
    output, equal blocks once. Here in one colour whose steps are told apart in grey, and with names set as in formulas: the
    parameters of layers are W_1, b_1, ... in the order of their use, in blocks that are drawn once without a number, gamma and
    beta those of norms; other parameters and inputs have the names that they were given. A .tex file is a document of its own
    with one TikZ picture, for pdflatex.

    Raises ArgumentError for what is no Module, and what the model raises.
    """
    if not isinstance(model, Module):
        raise ArgumentError(f"draw.architecture: model must be a Module, got {type(model).__name__}")
    check_layout("draw.architecture", direction, depth)
    program = recorded(traced(model, inputs))
    letters = short_names(program, program.leaf_names())
    options = Options(depth=depth, fold=fold, names=as_names(names), letters=letters)
    scene = Builder(Program(program, options)).scene
    scene.title, scene.direction, scene.paper = title, direction, True
    return Drawing(program, scene)
