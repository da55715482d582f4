"""A program: what a compiled step is tried with, as data of which its text is made."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from textwrap import indent

PARTS = "<parts>"


@dataclass(frozen=True)
class Line:
    """A statement, which may have several lines.

    parts     what stands at <parts>, joined by `glue`; a program may do with fewer of them
    simpler   other texts that may do instead
    tag       which habit it belongs to, if any
    """

    text: str
    parts: tuple[str, ...] = ()
    glue: str = ", "
    simpler: tuple[str, ...] = ()
    tag: str = ""

    def __str__(self) -> str:
        return self.text.replace(PARTS, self.glue.join(self.parts))


@dataclass(frozen=True)
class Step:
    """A function that is compiled; the last of its lines returns."""

    name: str
    args: str
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Program:
    """What is made before the calls, the functions that are compiled, and what is done in a loop that calls them.

    sizes     names of numbers that stand in shapes
    batches   for each call, which batch it gets: calls with equal ones get equal arguments
    loop      done for each call: k is its number, i its batch
    arrays_only   a step that is not compiled gets arrays as they are, and not as the Tensors that compiled ones get
    """

    seed: int
    setup: tuple[Line, ...] = ()
    steps: tuple[Step, ...] = ()
    loop: tuple[Line, ...] = ()
    batches: tuple[int, ...] = (0, 0, 0, 1, 2, 3)
    sizes: dict[str, int] = field(default_factory=dict)
    dtype: str = "float32"
    thresholds: dict[str, float] = field(default_factory=dict)
    threads: int = 1
    keep_grads: bool = False
    arrays_only: bool = False

    def lines(self) -> Iterator[Line]:
        yield from self.setup
        for step in self.steps:
            yield from step.lines
        yield from self.loop

    @property
    def tags(self) -> list[str]:
        """The habits in it."""
        return sorted({line.tag for line in self.lines() if line.tag})

    def run(self, last: str, watched: bool = True) -> str:
        """The generator function `run(how)`; `last` ends each round. watched: with calls of `ready`, `done` and `ran`."""
        body = [str(line) for line in self.setup]
        plain = any(re.search(r"\bplain\b", line.text) for line in self.loop)
        for step in self.steps:
            inner = ["ran()"] * watched + [str(line) for line in step.lines]
            body.append(f"def {step.name}({step.args}):\n" + indent("\n".join(inner), "    "))
            if plain:
                body.append(f"plain = {step.name}")
            body.append(f"{step.name} = how({step.name})")
        body.append(f"for k, i in enumerate({list(self.batches)}):")
        calls = rf"\b({'|'.join(step.name for step in self.steps) or 'fit'})\("
        inner = []
        for line in map(str, self.loop):
            given = " ".join(dict.fromkeys(re.findall(r"\b(\w) = ", line)))
            inner += ["ready(locals())", line, f"done(locals(), '{given}')"] if watched and re.search(calls, line) else [line]
        body.append(indent("\n".join([*inner, last]), "    "))
        return "def run(how):\n" + indent("\n".join(["tg.manual_seed(0)", *body]), "    ")

    def source(self) -> str:
        """The whole text, as it is run here."""
        return self._around(self.run("yield locals()"))

    def script(self, shown: str, note: str, numba: bool = True, tensors: bool = False) -> str:
        """A text that prints the expression `shown` after each call, for the step itself and compiled.

        tensors   the step itself needs Tensors where it is given arrays, as compiled ones get them
        """
        settings = [f"tg.set_num_threads({self.threads})"]
        settings += [f"tg.kernels.thresholds.{name} = {value}" for name, value in self.thresholds.items()]
        how = "lambda f: tg.compile(f, keep_grads=True)" if self.keep_grads else "tg.compile"
        itself = "given_tensors" if tensors else "lambda f: f"
        tail = f"{chr(10).join(settings)}\nfor how in ({itself}, {how}):\n    print(list(run(how)))"
        first = f"# {note}\n" + ("" if numba else NO_NUMBA)
        return first + self._around(f"{self.run(f'yield {shown}', watched=False)}\n\n\n{tail}")

    def _around(self, text: str) -> str:
        """`text` after the imports, helpers and sizes that it needs."""
        sizes = {name: n for name, n in self.sizes.items() if re.search(rf"\b{name}\b", text)}
        helpers: list[str] = []
        for name, helper in reversed(HELPERS.items()):
            if re.search(rf"\b{name}\b", "\n".join([text, *helpers])):
                helpers.insert(0, helper)
        body = "\n\n\n".join([*helpers, text])
        constants = [f"{', '.join(sizes)} = {', '.join(map(str, sizes.values()))}"] if sizes else []
        constants += [f'DT = "{self.dtype}"'] if re.search(r"\bDT\b", body) else []
        body = "\n".join(constants) + "\n\n\n" + body if constants else body
        imports = [line for name, line in IMPORTS.items() if re.search(rf"(?<![\w.]){name}\b", body)]
        return "\n".join([*imports, "", body.strip("\n")]) + "\n"

    def without_settings(self) -> Iterator[Program]:
        """The same with one of its settings less."""
        for name in self.thresholds:
            yield replace(self, thresholds={key: value for key, value in self.thresholds.items() if key != name})
        if self.threads > 1:
            yield replace(self, threads=1)
        if self.threads > 2:
            yield replace(self, threads=2)
        if self.keep_grads:
            yield replace(self, keep_grads=False)


NO_NUMBA = """\
import os

os.environ["TENSORGRAD_NO_NUMBA"] = "1"
"""

IMPORTS = {
    "collections": "import collections",
    "copy": "import copy",
    "dataclasses": "import dataclasses",
    "os": "import os",
    "pickle": "import pickle",
    "time": "import time",
    "types": "import types",
    "np": "import numpy as np",
    "tg": "import tensorgrad as tg",
    "Tensor": "from tensorgrad import Tensor",
    "nn": "from tensorgrad import nn",
    "optim": "from tensorgrad import optim",
    "data": "from tensorgrad import data",
    "train": "from tensorgrad import train",
    "Op": "from tensorgrad.op import Op",
    "REGISTRY": "from tensorgrad.op import REGISTRY",
    "F": "from tensorgrad.nn import functional as F",
}

# What programs may use besides; later ones may use earlier ones.
HELPERS = {
    "draw": """\
def draw(seed, *shape, low=None, high=1):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=shape) if low is None else rng.uniform(low, high, shape)).astype(DT)""",
    "whole": """\
def whole(seed, below, *shape):
    return np.random.default_rng(seed).integers(0, below, shape)""",
    "chances": """\
def chances(seed, *shape):
    p = draw(seed, *shape, low=0.05)
    return p / p.sum(-1, keepdims=True)""",
    "Pair": 'Pair = collections.namedtuple("Pair", "x y")',
    "Batch": """\
@dataclasses.dataclass
class Batch:
    x: object
    y: object""",
    "Residual": """\
class Residual(nn.Module):
    def __init__(self, *inner):
        super().__init__()
        self.inner = nn.Sequential(*inner)

    def forward(self, x):
        return x + self.inner(x)""",
    "fit": """\
def fit(how, *args, **options):
    compiled = hasattr(how(lambda: None), "plan")
    return train.fit(*args, progress=False, compile=compiled, **options)["loss"]""",
    "Synced": """\
class Synced(optim.SGD):
    def step(self):
        for p in self.params:
            p.grad.data[...] = p.grad.data * 0.5
        super().step()""",
    "given_tensors": """\
def given_tensors(f):
    return lambda *args: f(*[tg.from_dlpack(a) if isinstance(a, np.ndarray) else a for a in args])""",
    "forked": """\
def forked(call):
    child = os.fork()
    if not child:
        call()
        os._exit(0)
    for _ in range(500):
        if os.waitpid(child, os.WNOHANG)[0]:
            return "ended"
        time.sleep(0.01)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return "hangs\"""",
}
