"""A program prepared for drawing: its tree of calls with repeats and regions, model names, leaves and costs.

Shared by a drawing and the insides of its boxes (build.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tensorgrad.core.backend import dtype_name
from tensorgrad.core.graph import Graph
from tensorgrad.core.lazy import cached_property
from tensorgrad.core.node import Node
from tensorgrad.core.profiling import Cost
from tensorgrad.core.table import visible
from tensorgrad.core.tensor import Tensor
from tensorgrad.draw.fold import Folds
from tensorgrad.draw.measure import costs_of, flops_of, known_costs
from tensorgrad.draw.parts import Part, tree
from tensorgrad.draw.paths import Paths
from tensorgrad.draw.scene import Scene
from tensorgrad.draw.sources import Source, Sources
from tensorgrad.draw.words import class_of, shape_of

MOST = 4  # shapes of inputs and results to list


@dataclass(frozen=True)
class Options:
    """Drawing options; see draw.graph."""

    values: Mapping[Any, Any] | None = None  # of leaves and nodes
    maps: bool = False  # also as pictures
    cost: bool = False
    costs: Mapping[Node, Cost] | None = None  # known in advance
    measured: bool = False  # costs among the facts, even if not in the boxes
    depth: int | None = None
    fold: bool = True
    modules: bool = True
    highlight: frozenset[Any] = frozenset()
    names: Mapping[Any, str] = field(default_factory=dict)  # of models
    letters: Mapping[Any, str] = field(default_factory=dict)  # for parameters of layers, W1, b1, ...
    marks: Mapping[int, str] = field(default_factory=dict)  # index of a node to "added", "removed" or "changed"


class Program:
    """A graph with everything that its drawings need.

    root      the tree of its calls
    folds     its repeats and regions
    models    the name of each model, by id, if there are several or names were given
    outputs   the nodes of its results
    dtype     the dtype of most results
    inner     cached scenes of the insides of boxes, by part
    """

    def __init__(self, graph: Graph, options: Options) -> None:
        self.graph, self.options = graph, options
        self.costs: Mapping[Node, Cost] = {}
        if options.measured:
            self.costs = costs_of(graph) if options.costs is None else known_costs(graph, options.costs)
        dtypes = Counter(str(n.dtype) for n in graph.nodes if n.dtype is not None)
        self.dtype = dtypes.most_common(1)[0][0] if dtypes else "float32"
        self.folds = Folds()
        self.root = tree(list(graph.nodes), functions=options.fold, modules=options.modules)
        self.paths = Paths(graph)
        self.models = self.named_models()
        if options.fold:
            self.folds.repeats(self.root)
        self.outputs = {self.folds.shown(n) for n in graph.outputs}
        self.sources = Sources(self.models, self.paths)
        self.inner: dict[Part, Scene] = {}

    def named_models(self) -> dict[int, str]:
        called = [p for p in self.root.parts if p.kind == "model"]
        calls = Counter(id(p.key.module) for p in called)
        numbers: Counter[int] = Counter()
        for part in called:
            if calls[id(part.key.module)] > 1:
                numbers[id(part.key.module)] += 1
                part.number = numbers[id(part.key.module)]
        self.is_framed = len(called) > 1
        modules = list(dict.fromkeys(p.key.module for p in called))
        given_names = {id(module): name for module, name in self.options.names.items()}
        if len(modules) < 2 and not any(id(m) in given_names for m in modules):
            return {}
        names = [given_names.get(id(m), type(m).__name__) for m in modules]
        counts = Counter(names)
        numbered: Counter[str] = Counter()
        result = {}
        for module, name in zip(modules, names, strict=True):
            numbered[name] += 1
            result[id(module)] = visible(name if counts[name] == 1 else f"{name} {numbered[name]}")
        return result

    def label(self, part: Part, framed: Collection[str] = (), within: str = "") -> str:
        """The label of a module, its path and its class with arguments, or of a region.

        framed   the modules whose frames already name the blocks
        within   the module whose inside is drawn: paths are relative to it
        """

        def path_of(scope: str) -> str:
            path = self.paths.path(scope)
            return visible(path.removeprefix(f"{within}.") if within else path)

        if part.kind == "region":
            return region_name(part, path_of)
        scope, module = part.key, part.key.module
        name = class_of(module)
        path = path_of(scope)
        if part.kind == "model":
            model_name = self.models.get(id(module), "")
            call = f", call {part.number}" if part.number else ""
            if model_name and model_name.split(" ")[0] != type(module).__name__:
                model_name = f"{model_name} · {name}"
            return (model_name or (f"{path} · {name}" if path else name)) + call
        if not part.scopes:
            uses = self.paths.uses(scope)
            return f"{path} · {name}" + (f" ({visible(uses)})" if uses else "")
        if not within:
            outer = visible(self.paths.path(scope.outer))
            path = path.removeprefix(f"{outer}.") if str(scope.outer) in framed else f"{path} … {visible(part.scopes[-1])}"
        return f"{path} · {name}"

    def described(self, value: Any) -> str:
        """Shape, and dtype if it differs from the program's."""
        dtype = dtype_name(value.dtype)
        return shape_of(value) + ("" if dtype == self.dtype else f" {dtype}")

    def shapes(self, values: Sequence[Node | Tensor]) -> str:
        """The distinct shapes, with their counts."""
        count = Counter(self.described(value) for value in values)
        texts = [shape if n == 1 else f"{n} of {shape}" for shape, n in count.items()]
        return ", ".join(texts[:MOST]) + (", …" if len(texts) > MOST else "")

    def letter(self, weight: Source, count: int) -> str:
        """The letter for a parameter in a layer's box, without a number if the box represents several layers."""
        letter = self.options.letters.get(weight.leaf)
        if letter is None:
            return weight.name.rpartition(".")[2]
        return letter.rstrip("0123456789") if count > 1 else letter

    @cached_property
    def represented(self) -> dict[Node, list[Node]]:
        """For each drawn node, itself and the nodes of other blocks that it represents."""
        result: dict[Node, list[Node]] = {}
        for node in self.graph.nodes:
            result.setdefault(self.folds.shown(node), []).append(node)
        return result

    @cached_property
    def readers(self) -> dict[Node, list[Node]]:
        """The readers of each node."""
        result: dict[Node, list[Node]] = {}
        for node in self.graph.nodes:
            for s in node.inputs:
                if isinstance(s, Node):
                    result.setdefault(s, []).append(node)
        return result

    def results(self, part: Part) -> list[Node]:
        """The results of a part: nodes read outside, by the next equal block, or results of the program; otherwise the last
        node.
        """
        nodes = set(part.nodes)
        found = [n for n in part.nodes if self.folds.shown(n) is n and (n in self.outputs or self.is_read(n, nodes))]
        return found or part.nodes[-1:]

    def is_read(self, node: Node, block: set[Node]) -> bool:
        """Whether a node, or one of another block that it represents, is read outside of its own block."""
        if any(r not in block for r in self.readers.get(node, ())):
            return True
        return any(self.folds.shown(r) not in block for n in self.represented[node] for r in self.readers.get(n, ()))

    def inputs_of(self, part: Part) -> list[Node | Tensor]:
        """The inputs of a part: nodes computed before it, and data."""
        nodes = set(part.nodes)
        inputs = [s for n in part.nodes for s in n.inputs if isinstance(s, (Node, Tensor)) and s not in nodes]
        data = [s for s in inputs if isinstance(s, Node) or (type(s) is Tensor and not s.requires_grad and s.shape)]
        return list(dict.fromkeys(data))

    @cached_property
    def flops(self) -> dict[Node, int]:
        """The floating-point operations of each node."""
        costs = self.options.costs
        return {n: flops_of(n) if costs is None else costs.get(n, Cost()).flops for n in self.graph.nodes}

    @cached_property
    def place(self) -> dict[Node, int]:
        """The number of each operation in the order of execution, from 1."""
        return {node: i for i, node in enumerate(self.graph.nodes, 1)}


def region_name(part: Part, path_of: Callable[[str], str]) -> str:
    """ "layers.0 … layers.11 · 12 Block" where it consists of calls of modules, else its number."""
    called = [p for p in part.parts if p.kind == "module"]
    if len(called) < len(part.parts):
        return f"region {part.key}"
    paths = [path_of(p.key) for p in (called[0], called[-1])]
    classes = Counter(visible(type(p.key.module).__name__) for p in called)
    kinds = [f"{n} {name}" for name, n in classes.most_common(2)]
    return f"{paths[0]} … {paths[1]} · {', '.join(kinds)}" + (", …" if len(classes) > 2 else "")
