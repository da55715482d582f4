"""Programs of every registered operation, of the user's own ones, and of what only NumPy's arrays can do."""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorgrad.op import Op
from tests.fuzz.draw import choices
from tests.fuzz.formulas import Formula
from tests.fuzz.program import Line, Step
from tests.fuzz.world import OPS

LEFT_OUT = (
    "checkpoint",
    "to_device",
    "keep_mask",
    "uniform",
    "first_of",
)  # with attributes that are functions, devices, generators


def operations(seed: int, forms: int | None) -> Formula:
    """Registered operations on samples of their own, or on results of those before where the shapes are right."""
    f = Formula(seed, forms)
    form = f.form
    f.dtype = f.space["DT"] = "float64" if form.chance(0.6) else "float32"
    rng = np.random.default_rng(form.randrange(2**32))
    sizes = [form.one(1, 2, 3), form.one(1, 2, 3)]
    args: list[str] = []
    for _ in range(form.weighted({1: 2, 2: 3, 3: 3, 5: 2})):
        op = OPS[form.one(*(name for name in sorted(OPS) if name not in LEFT_OUT))]
        samples, attrs = op.sample(rng, sizes)
        sources = [source(f, op, j, np.asarray(a), args) for j, a in enumerate(samples)]
        text = ", ".join([*sources, *(f"{key}={literal(value)}" for key, value in attrs.items())])
        f.write(f"v{len(f.body)}", f'op["{op.name}"]({text})', f.body, tuple(s for s in sources if s.isidentifier()))
    made = [name for name in f.known if name.startswith("v")]
    if not made:
        f.write("v", "Tensor(np.ones(3))", f.body)
    f.finish(args, (made or ["v"])[-form.one(1, 2, 3) :] + f.gradients())
    f.setup.append(Line("op = REGISTRY"))
    return f


def source(f: Formula, op: Op, j: int, sample: np.ndarray, args: list[str]) -> str:
    """What an operation gets for one of its arguments: a result before it, a new argument, something from outside."""
    form, name = f.form, f"x{len(args)}"
    if sample.dtype.kind != "f" or op.is_data(j):
        if form.chance(0.4) and f.write(name, literal(sample), f.made):
            args.append(name)
            return name
        return f.outside(literal(sample)) if form.chance(0.5) else literal(sample)
    low, high = op.domain
    fitting = [n for n in f.tensors("f") if n.startswith("v") and f.space[n].shape == sample.shape]
    fitting = [n for n in fitting if low <= f.space[n].data.min(initial=high) and f.space[n].data.max(initial=low) <= high]
    if fitting and form.chance(0.7):
        return form.one(*fitting)
    text = f"({literal(sample.round(3))} * (1 + 0.001 * i)).astype(DT)"
    if type(op).sample is Op.sample and not op.kinks:
        shape = "".join(f", {n}" for n in sample.shape)
        text = f"draw(i + {10 * len(args)}{shape}, low={low}, high={high})"
    if not f.write(name, text, f.made):
        return literal(sample)
    args.append(name)
    if form.chance(0.6):
        f.leaf(f"a{len(args)}", name)
        return f"a{len(args)}"
    return name


def literal(value: Any) -> str:
    """A value as it is written in Python."""
    if isinstance(value, (np.ndarray, np.generic)):
        array = np.asarray(value)
        text = np.array2string(array, separator=", ", threshold=array.size + 1, max_line_width=10**6)
        text = " ".join(text.split()).replace("nan", "np.nan").replace("inf", "np.inf")
        return f'np.array({text}, "{array.dtype}")' if array.size else f'np.zeros({array.shape}, "{array.dtype}")'
    if isinstance(value, (tuple, list)):
        inner = ", ".join(map(literal, value)) + "," * (len(value) == 1)
        return f"({inner})" if isinstance(value, tuple) else f"[{inner}]"
    if isinstance(value, np.dtype) or (isinstance(value, type) and issubclass(value, np.generic)):
        return f'np.dtype("{np.dtype(value)}")'
    return "..." if value is Ellipsis else repr(value)


ARRAYS = choices("""
    ~x; x & 1; x | y; x.ravel(); x.argsort().sum(-1); x << 1; x.flatten() ^ 1; x.astype(float).mean(); x % 3; x // 2 - y;
    x.copy(); np.sort(x, axis=0); x.cumprod(0); np.maximum(x, y); x.nonzero()[0]; np.median(x); x.view('i8'); x.T.dot(y);
    x.any(); np.linalg.norm(x * 1.0); np.where(x > 2, x, y); np.cumsum(x); np.unique(x); len(x) * x; x.size + x
""")


def arrays(seed: int, forms: int | None) -> Formula:
    """Functions of arrays of integers, as one writes them for NumPy."""
    f = Formula(seed, forms)
    f.arrays_only = True
    f.axes("ND")
    lines = [Line(f"{name} = {f.form.one(*ARRAYS)}") for name in "uv"[: f.form.one(1, 1, 2)]]
    f.steps.append(Step("step", "x, y", (*lines, Line("return u"))))
    tag = "only NumPy's arrays can"
    f.loop = [Line("x = whole(i, 5, N, D)"), Line("y = whole(i + 100, 5, N, D)"), Line("r = step(x, y)", tag=tag)]
    return f


NAMES = "my_square cross_entropy amax full T assign chain reduce copy column_sum loop elementwise dot argument"
OWN = '''class Mine(Op):
    """y = x²

    forward    y = x²
    backward   gx = 2 g x
    """

    name, signature, reads = "{}", "()->()", "x"

    def forward(self, xp, x):
        return x * x

    def backward(self, g, y, x):
        return (lambda: 2 * g * x,)'''
USES = choices("mine(x * w).sum(); (mine(x) * w).mean(); mine(mine(w) + x).mean(); mine(x @ w).sum()")


def own(seed: int, forms: int | None) -> Formula:
    """A training step with an operation of the user's own, under names that the package might know."""
    f = Formula(seed, forms)
    f.axes("ND")
    name = f.free.one(*NAMES.split())
    f.setup = [Line(OWN.replace("{}", name), tag=f"own operation {name}"), Line("mine = Mine()")]
    f.setup += [Line("w = Tensor(draw(30, D), requires_grad=True)"), Line("o = optim.SGD([w], lr=0.1)")]
    body = (f"l = {f.form.one(*USES)}", "o.zero_grad()", "l.backward()", "o.step()", "return l")
    f.steps.append(Step("step", "x", tuple(map(Line, body))))
    f.loop = [Line("x = draw(i, N, D)"), Line("r = step(x)")]
    return f
