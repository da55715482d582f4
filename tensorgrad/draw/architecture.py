"""Architecture figures of models for papers and lectures."""

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
    """Draw the architecture of a model for print: `draw.architecture(model, x).save("model.pdf")`, or "model.svg", "model.tex".

    model      a Module
    inputs     example inputs; a Tensor is labelled with its name, an array with x
    depth, fold, names, direction, title   as for draw.graph

    Like draw.graph(model, x) it has a box for each module with class, arguments, shape and parameters, the data flow from input
    to output, and repeated blocks drawn once. It uses shades of a single colour that are distinguishable in grey, and sets
    names as in formulas: parameters of layers are W_1, b_1, ... in order of use, in repeated blocks without numbers, and gamma
    and beta for norms; other parameters and inputs have their given names. A .tex file is a standalone document with one TikZ
    picture, for pdflatex.

    Raises ArgumentError for anything but a Module, and any error of the model.
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
