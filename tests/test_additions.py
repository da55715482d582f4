"""An activation, a loss, a fused pattern, a kind of kernel and an optimiser, each added to a copy of the project: it takes
three files at most, one of them with what is expected, and everything else finds the addition by itself.

What is added stands here, and where; what has to find it stands in additions.py, and in the copy's own tests. Besides the files
that somebody edits there is tensorgrad/core/face.pyi, which `python -m tests.face` writes: a method more is a line more there.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent

SHRUNK = '''

class Shrunk(Unary):
    """y = x - tanh(x)

    forward    y  = x - tanh x
    backward   gx = g tanh² x
    tangent    ty = tx tanh² x
    """

    name, signature, reads = "shrunk", "()->()", "x"
    activation = True

    def forward(self, xp: Xp, x: Array) -> Array:
        return x - xp.tanh(x)

    def backward(self, g: Value, y: Value, x: Value) -> Rules:
        return (lambda: g * tanh(x) ** 2,)

    def jvp(self, y: Value, x: Value) -> Tangents:
        return (lambda t: t * tanh(x) ** 2,)


shrunk = Shrunk()
'''
SHRUNK_MODULE = '''class Shrunk(Module):
    """y = x - tanh(x)"""

    def forward(self, x: Any) -> Any:
        return F.shrunk(x)


'''
COUNT = '''@one_box
def count_loss(input: Operand[T], target: Operand[T], *, reduction: str = "mean") -> T | Array:
    """L = e^input - target input, element by element, reduced. Raises ShapeError unless both have the same shape."""
    input, target = checked_pair("count_loss", input, target, reduction)
    return reduced(ops.exp(input) - target * input, reduction)


'''
COUNT_MODULE = '''

class CountLoss(Loss):
    """e^input - target input; see nn.functional.count_loss."""

    def forward(self, input: Any, target: Any) -> Any:
        return F.count_loss(input, target, reduction=self.reduction)
'''
LINEAR_EXP = '''

class LinearExp(LinearActivation):
    """y = exp(x W + b)

    forward    y  = e^(x W + b)                                   x (...,k), W (k,n), b (n)
    backward   dz = g y
               gx = dz Wᵀ,   gW = xᵀ dz,   gb = sum of dz over samples
    tangent    ty = tz y,   tz = tx W + x tW + tb
    """

    name, gradient = "linear_exp", mul

    def forward(self, xp: Xp, x: Array, w: Array, b: Array) -> Array:
        return xp.exp(linear.forward(xp, x, w, b))


linear_exp = LinearExp()
linear_exp.expands = (linear, exp)
'''
SCAN = '''

class Scan(Call):
    """y = x summed up along an axis, element after element."""

    def __init__(self, axis: int, inputs: list[Any], outputs: list[Value], nodes: list[Node], flops: int) -> None:
        super().__init__("scan", inputs, outputs, nodes, flops)
        self.axis = axis

    def compute(self, *inputs: Any) -> list[Array]:
        return [np.add.accumulate(inputs[0], self.axis)]

    def sums(self, split: Rows) -> list[Value] | None:
        return [] if split.rows(self.inputs[0]) and self.axis else None

    def emit(self, writer: Writer) -> None:
        writer.lines.append(f"add.accumulate({writer.name(self.inputs[0])}, {self.axis}, None, {writer.name(self.outputs[0])})")

    def launch(self, launcher: Launcher) -> Launch:
        x, out = launcher.array(self.inputs[0]), launcher.array(self.outputs[0])
        return lambda: launcher.xp.cumsum(x, self.axis, out=out)
'''
SCAN_LOWERED = """    def scan(self, node: Node, inputs: list[Any]) -> Value | None:
        (x,) = inputs
        if not isinstance(x, Value) or x.dtype != node.dtype:
            return None
        out = self.buffer(node.shape, node.dtype, node)
        self.calls.append(Scan(node.attrs["axis"] % node.ndim, [x], [out], [node], self.flops(node)))
        return out

"""
LION = '''"""Lion."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from tensorgrad.core.op import Value
from tensorgrad.core.tensor import Tensor
from tensorgrad.optim.group import ParamGroup
from tensorgrad.optim.optimiser import Optimiser


class Lion(Optimiser):
    """Lion (Chen et al. 2023).

    c = b1 m + (1 - b1) g;   p = p - lr sign(c);   m = b2 m + (1 - b2) g
    """

    slots = ("m",)

    def __init__(self, params: Iterable[Tensor], lr: float = 1e-4, betas: tuple[float, float] = (0.9, 0.99)) -> None:
        super().__init__(params, lr, b1=betas[0], b2=betas[1])

    def numbers(self, group: ParamGroup, t: int) -> dict[str, float]:
        b1, b2 = group["b1"], group["b2"]
        return {"lr": group["lr"], "b1": b1, "c1": 1 - b1, "b2": b2, "c2": 1 - b2}

    def update(self, group: ParamGroup, p: Value, g: Value, *state: Value, **n: Value) -> Sequence[Value]:
        (m,) = state
        return p - n["lr"] * np.sign(n["b1"] * m + n["c1"] * g), n["b2"] * m + n["c2"] * g
'''
LION_BY_HAND = """def lion(p, g, t, s, lr, betas):
    m = s.get("m", 0)
    s["m"] = betas[1] * m + (1 - betas[1]) * g
    return p - lr * np.sign(betas[0] * m + (1 - betas[0]) * g)


"""

Change = Callable[[str], str]  # of the text of a file


def before(marker: str, new: str) -> Change:
    """What puts text before a marker that is there once."""

    def change(text: str) -> str:
        assert text.count(marker) == 1, f"{marker!r} is there {text.count(marker)} times"
        return text.replace(marker, new + marker)

    return change


def into(table: str, row: str) -> Change:
    """What puts a row, or a name, first into a list or dict that is written out at the top level of a file."""

    def change(text: str) -> str:
        found = re.findall(rf"^{table}\b.*= [\[{{]", text, re.MULTILINE)
        assert len(found) == 1, f"{table} is there {len(found)} times"
        return text.replace(found[0], f"{found[0]}{row}, ")

    return change


def at_the_end(new: str) -> Change:
    return lambda text: text + new


class Addition(NamedTuple):
    """edits    file to what changes in it
    finds    what finds the addition by itself: a function of additions.py, and tests of the copy, as pytest calls them
    written  files that a command writes
    """

    edits: dict[str, list[Change]]
    finds: list[str]
    written: tuple[str, ...] = ()


ADDITIONS = {
    "activation": Addition(
        {
            "tensorgrad/ops/activation.py": [into("__all__", '"shrunk"'), at_the_end(SHRUNK)],
            "tensorgrad/nn/layers.py": [into("__all__", '"Shrunk"'), before("class Softmax(Module):", SHRUNK_MODULE)],
            "tests/oracles/activation.py": [
                into("ORACLES", '"shrunk": lambda x: x - np.tanh(x)'),
                into("FAR_OUT", '"shrunk": (lambda x: x + 1, lambda x: x - 1, (1, 1))'),
            ],
        },
        [
            "additions.py::test_an_activation",
            "test_ops.py::test_every_op_has_an_oracle",
            "test_ops.py::test_formula_stands_at_the_rule[shrunk]",
            "test_ops.py::test_value[shrunk]",
            "test_ops.py::test_gradient[shrunk]",
            "test_ops.py::test_rule_reads_only_what_it_declares[shrunk]",
            "test_ops_elementwise.py::test_nothing_overflows_far_out[shrunk-float32]",
            "test_layers.py::test_layers_without_parameters[Shrunk()]",
            "test_signatures.py::test_a_method_is_the_function[shrunk]",
            "test_signatures.py::test_what_is_public_says_how_it_is_called[nn.Shrunk]",
            "test_signatures.py::test_what_is_defined_is_listed",
            "test_compile.py::test_replays_are_the_step[mse-shrunk-False]",
            "test_mutations.py::test_every_mutant_is_caught[shrunk]",
            "compiled/test_formulas.py::test_own_functions_and_their_gradients[shrunk-float32]",
            "test_house.py::test_what_type_checkers_are_told_of_a_tensor",
        ],
        written=("tensorgrad/core/face.pyi",),
    ),
    "loss": Addition(
        {
            "tensorgrad/nn/loss.py": [into("__all__", '"count_loss"'), before("def check_reduction(", COUNT)],
            "tensorgrad/nn/losses.py": [into("__all__", '"CountLoss"'), at_the_end(COUNT_MODULE)],
            "tests/test_functional.py": [
                into("PAIRS", '"count_loss": (F.count_loss, lambda x, t: np.exp(x) - t * x)'),
            ],
        },
        [
            "additions.py::test_a_loss",
            "test_functional.py::test_loss_of_a_pair[shape0-mean-count_loss]",
            "test_functional.py::test_losses_never_broadcast[count_loss]",
            "test_functional.py::test_losses_keep_float32[count_loss]",
            "test_layers.py::test_losses[CountLoss]",
            "test_signatures.py::test_what_is_public_says_how_it_is_called[F.count_loss]",
            "test_signatures.py::test_what_is_public_says_how_it_is_called[nn.CountLoss]",
            "test_signatures.py::test_what_is_defined_is_listed",
        ],
    ),
    "fused pattern": Addition(
        {
            "tensorgrad/ops/linalg.py": [
                into("__all__", '"linear_exp"'),
                before("from tensorgrad.ops.shape", "from tensorgrad.ops.exponential import exp\n"),
                at_the_end(LINEAR_EXP),
            ],
            "tests/oracles/linalg.py": [
                into("LAYERS", '"linear_exp": (np.exp, lambda y: y)'),
            ],
        },
        [
            "additions.py::test_a_fused_pattern",
            "test_fusion.py::test_layer[linear_exp]",
            "test_ops.py::test_every_op_has_an_oracle",
            "test_ops.py::test_value[linear_exp]",
            "test_ops.py::test_gradient[linear_exp]",
            "test_signatures.py::test_functions_that_are_no_methods",
            "test_house.py::test_what_type_checkers_are_told_of_a_tensor",
        ],
    ),
    "kind of kernel": Addition(
        {
            "tensorgrad/compiler/calls/reduction.py": [into("__all__", '"Scan"'), at_the_end(SCAN)],
            "tensorgrad/compiler/lower.py": [
                before("from tensorgrad.compiler.calls.reduction", "from tensorgrad.compiler.calls import Scan\n"),
                before("    def concatenate(self", SCAN_LOWERED),
                into("RULES", "ops.cumsum: Lowering.scan"),
            ],
            "tests/compiled/test_calls.py": [
                before("from tensorgrad.compiler.emit", "from tensorgrad.compiler.calls import Scan\n"),
                into("EXAMPLES", "Scan: ([X[0]], lambda x: x.cumsum(1), lambda *made: Scan(1, *made, 0))"),
            ],
        },
        [
            "additions.py::test_a_kind_of_kernel",
            "compiled/test_calls.py::test_every_kind_of_call_is_listed_and_has_an_example",
            "compiled/test_calls.py::test_every_kind_of_call[Scan]",
        ],
    ),
    "optimiser": Addition(
        {
            "tensorgrad/optim/lion.py": [at_the_end(LION)],
            "tensorgrad/optim/__init__.py": [
                into("__all__", '"Lion"'),
                before("from tensorgrad.optim.optimiser", "from tensorgrad.optim.lion import Lion\n"),
            ],
            "tests/test_optim.py": [
                before("rates, shares = ", LION_BY_HAND),
                into("OPTIMISERS", '"Lion": (optim.Lion, lion, {"betas": betas})'),
            ],
        },
        [
            "additions.py::test_an_optimiser",
            "test_optim.py::test_formula[Lion]",
            "test_optim.py::test_every_kernel_gives_the_same[Lion]",
            "test_optim.py::test_resumed_is_bit_for_bit_the_same[Lion]",
            "test_optim.py::test_a_copy_with_its_parameters_goes_on_as_the_original[Lion-3-pickle]",
            "test_signatures.py::test_what_is_public_says_how_it_is_called[optim.Lion]",
            "test_compile.py::test_every_optimiser[Lion-float32]",
        ],
    ),
}


def files(folder: Path) -> dict[str, bytes]:
    """The project's files in a folder, by name."""
    paths = [p for part in ("tensorgrad", "models", "tests") for p in (folder / part).rglob("*") if p.is_file()]
    return {str(p.relative_to(folder)): p.read_bytes() for p in paths if "__pycache__" not in p.parts}


def copied(copy: Path) -> None:
    """Make a copy of the project, with `tensorgrad.models` where it is installed; with compiled Python, which saves time."""
    for part in ("tensorgrad", "models", "tests"):
        shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns(".*"))
    for part in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / part, copy)
    (copy / "tensorgrad" / "models").symlink_to(copy / "models")


def edited(copy: Path, edits: dict[str, list[Change]]) -> None:
    for file, changes in edits.items():
        text = (copy / file).read_text() if (copy / file).exists() else ""
        for change in changes:
            text = change(text)
        (copy / file).write_text(text)


def passed(copy: Path, tests: list[str]) -> set[str]:
    """Those tests of a copy that pass, its package being the one that is imported."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    env |= {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "TENSORGRAD_NO_NUMBA": "1"}
    options = [
        "-n0",
        "-q",
        "-rp",
        "--assert=plain",
        "-p",
        "no:cacheprovider",
        "--hypothesis-seed=1",
    ]  # the same examples each time
    command = [sys.executable, "-m", "pytest", *options, *(f"tests/{test}" for test in tests)]
    ran = subprocess.run(command, cwd=copy, env=env, capture_output=True, text=True, timeout=300)
    assert not ran.returncode, ran.stdout[-4000:] + ran.stderr[-4000:]
    return set(re.findall(r"^PASSED tests/(.*)$", ran.stdout, re.MULTILINE))


@pytest.mark.every(3)
@pytest.mark.parametrize("kind", ADDITIONS)
def test_three_files_and_all_find_it(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("scipy", reason="needs SciPy: pip install scipy")  # for oracles
    edits, finds, written = ADDITIONS[kind]
    copied(copy := tmp_path / "project")
    before = files(copy)
    edited(copy, edits)
    assert passed(copy, finds) == set(finds)
    after = files(copy)
    changed = {file for file in {*before, *after} if after.get(file) != before.get(file)}
    assert changed == {*edits, *written}
    assert len(changed - {*written}) <= 3


def test_no_table_misses_one(tmp_path: Path) -> None:
    """All five in one copy: no test that holds tables by hand, or lists of names, against what there is asks for more."""
    pytest.importorskip("scipy", reason="needs SciPy: pip install scipy")  # for oracles
    copied(copy := tmp_path / "project")
    for addition in ADDITIONS.values():
        edited(copy, addition.edits)
    found = passed(copy, ["additions.py::test_everything_is_there", "test_tables.py"])
    assert len(found) > 7
