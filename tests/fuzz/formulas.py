"""Programs that are formulas: expressions as people write them, with gradients."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

import tensorgrad as tg
from tensorgrad import Tensor, nn, optim
from tensorgrad.nn import functional as F
from tests.fuzz.draw import CONSTANTS, WRITTEN, Writer, choices
from tests.fuzz.program import HELPERS, PARTS, Line, Step
from tests.fuzz.world import OPS

# {} is a value, {f} one of a floating dtype, {m} such a one with two axes, {b} one that can be broadcast to the first, {c} a
# constant, {axis} one axis of the first, several or None, {one} one axis, {w} and {v} a matrix and a row from outside, {n} a
# value that may be changed.
ELEMENTWISE = choices("""
    {f}.tanh(); {f}.sigmoid(); {f}.relu(); tg.silu({f}); tg.gelu({f}); tg.gelu({f}, "tanh"); tg.softplus({f}); tg.elu({f}, 0.5);
    tg.leaky_relu({f}, 0.2); np.exp({f} * 0.5); tg.log({f}.abs() + 0.5); tg.sqrt({f} * {f} + 0.1); {f} ** 2; {f} ** 3;
    {f}.abs() ** 1.5; {f}.sin(); {f}.cos(); tg.erf({f}); tg.expm1({f}); tg.square({}); tg.reciprocal({f}.abs() + 1);
    {}.sign(); -{}; +{}; {f}.floor(); {f}.round(1); {}.clip(-1, 1); {f}.clip(None, 0.5); {f}.arctan(); tg.log1p({f}.abs());
    tg.logsigmoid({f}); tg.hardtanh({f}); {}.isfinite(); tg.sinh({f} * 0.3); {f}.trunc(); {} + {b}; {} - {b}; {} * {b};
    {f} / ({b}.abs() + 1); {f} / {b}; 1 / ({f} * 0 + {b}); tg.maximum({}, {b}); tg.minimum({}, {b}); {} * {b} + {b}; {} > {b};
    {} <= {b}; {} == {b}; ({} > 0) + ({b} > 0); ({} > 0) * ({b} < 1); ~({} > 0); ({} > 0) - 1 * ({b} > 0);
    tg.where({} > {b}, {}, {b}); tg.where({} > 0, {f}, 0); {} * ({b} > 0); {} % ({b}.abs() + 2); {} // ({b}.abs() + 2);
    {} * {c}; {c} * {}; {} + {c}; {c} - {}; {} / {c}; {f} ** {c}; tg.maximum({}, {c}); np.multiply({}, {c}); {} > {c};
    {}.astype("float32"); {}.astype("float64"); ({} > 0).astype(DT); ({} * 3).astype("int32"); {}.astype(bool);
    {}.astype("float16"); tg.relu_grad({f}, {f}); np.tanh({f}); np.add({}, {b}); np.square({}); np.abs({}); abs({});
    np.where({} > 0, {}, {b})
""")
REDUCTIONS = choices("""
    {}.sum({axis}); {}.sum({axis}); {}.mean({axis}); {}.max({axis}); {}.min({axis}); {}.sum({axis}, keepdims=True);
    {f}.mean({axis}, keepdims=True); {f}.logsumexp({axis}); {f}.norm(axis={axis}); ({f} * 0.5).prod({axis}); {f}.var({axis});
    {f}.std({axis}); ({f} * {f}).sum({axis}); ({f} * {f}).mean({axis}); ({f} - {f}.mean({axis}, keepdims=True)).sum({axis});
    ({} > 0).sum({axis}); ({} > 0).any({axis}); ({} > 0).all({axis}); {}.argmax({one}); {}.argmin({one});
    ({} > 0).mean({axis}); np.sum({}, {axis}); np.mean({f}, axis={axis}); ({f} * {b}).sum({axis}); {f}.exp().sum({axis});
    {f}.abs().sum({axis})
""")
SHAPES = choices("""
    {}.T; {}.reshape(-1); {}[..., None]; {}[None]; {}.reshape(-1, 1); {}.flip({one}); {}[::-1]; {}.reshape(1, -1);
    {}.roll(1, {one}); {}.tile(2); {}.repeat(2, {one}); {}.pad(1); tg.stack([{}, {}]); tg.concatenate([{}, {}], {one}); {}[0];
    {}[-1:]; {}[1:]; {}[:, 0]; {}[..., :1]; {}[::2]; {}[..., ::-1]; {}[:, None]; {}.squeeze(); {}.cumsum({one});
    {}.broadcast_to((2, *{}.shape)); {}.swapaxes(0, -1); {}.expand_dims(0); {}.take([0, 0, 1], {one}); {}[[0, 1, 0]];
    {m}.tril(); {m}.triu(1); {m}.diagonal(); {m}.trace(); {}.split(1, {one})[0]; np.concatenate([{}, {}], axis={one});
    {}.moveaxis(0, -1); {}.broadcast_to({b}.shape); {}.detach(); Tensor({}); {} + 0 * {b}; tg.setitem({}, 0, 0); {}[()];
    {m}[np.arange({m}.shape[0]), 0]; {m}.take_along_axis({m}.argmax(1, keepdims=True), 1); np.swapaxes({m}, 0, 1)
""")
ROWS = choices("""
    {f}.softmax(); {f}.log_softmax(); {f}.softmax({one}); {f}.log_softmax({one}); tg.log({f}.softmax()); {f}.logsumexp(-1);
    F.layer_norm({f}, {f}.shape[-1]); F.mse_loss({f}, {f} * 0.5); F.huber_loss({f}, {f} * 0.5); F.dropout({f}, 0.5);
    F.dropout({f}, np.float64(0.25)); {f} - {f}.max({one}, keepdims=True); -({f}.softmax() * {f}.log_softmax()).sum(-1).mean();
    tg.one_hot({f}.argmax(-1), {f}.shape[-1]); tg.nll_loss({m}.log_softmax(), {m}.argmax(-1));
    F.cross_entropy({m}, {m}.argmax(-1)); F.cross_entropy({m}, {m}.softmax().detach()); F.batch_norm({m}, training=True);
    F.cross_entropy({m}, {m}.argmax(-1)) * {}.sum()
""")
PRODUCTS = choices("""
    {m} @ {m}.T; {m}.T @ {m}; ({m} @ {m}.T).relu(); {m} @ {m}[0]; tg.einsum("ij,ij->i", {m}, {m}); {}.dot({}.T);
    tg.outer({}.reshape(-1)[:3], {}.reshape(-1)[:2]); {m}[None] @ {m}.T; {m}[None].broadcast_to((2, *{m}.shape)) @ {m}.T;
    tg.einsum("ij,kj->ik", {m}, {m}); tg.tensordot({m}, {m}, 1); {f} @ {w}; ({f} @ {w} + {v}).relu(); ({f} @ {w} + {v}).tanh();
    F.linear({f}, {w}, {v}); tg.sigmoid({f} @ {w} + {v}); {m}.T @ {m}.sum(1); {m} @ np.ones({m}.shape[1], DT);
    ({f} @ {w}) @ {w}.T
""")
IN_PLACE = choices("{n} += 1; {n} *= 0.5; {n}[:1] = 0; {n} -= {b}; {n}[...] = {n} * 2; {n}[-1:] = {n}[:1]; {n} /= 2")
FAMILIES = {ELEMENTWISE: 10, REDUCTIONS: 3, SHAPES: 3, ROWS: 1.5, PRODUCTS: 1.5, IN_PLACE: 0.7}

ARGUMENTS = {
    "draw({seed}, N, D)": 6,
    "draw({seed}, D)": 2,
    "draw({seed}, N, 1)": 1.5,
    "draw({seed}, 1, D)": 1,
    "draw({seed}, N)": 1,
    "draw({seed})": 1,
    "draw({seed}, 1)": 0.5,
    "draw({seed}, D, N).T": 1.2,
    "np.asfortranarray(draw({seed}, N, D))": 0.8,
    "draw({seed}, N, D)[::-1]": 0.8,
    "draw({seed}, N, 2 * D)[:, ::2]": 0.8,
    "draw({seed}, N, D)[:, ::-1]": 0.4,
    "draw({seed}, H, N, D)": 0.8,
    'draw({seed}, N, D).astype("float32")': 0.5,
    'draw({seed}, N, D).astype("float64")': 0.5,
    'draw({seed}, N, D).astype("float16")': 0.4,
    'np.full((N, D), 100 + i, "float16")': 0.4,
    "whole({seed}, 5, N, D)": 0.8,
    "whole({seed}, 5, N, D) > 1": 0.8,
    'whole({seed}, 5, D).astype("uint8")': 0.3,
    "np.float32(0.5 + i)": 0.4,
    "np.float64(1 + i)": 0.4,
    "np.bool_(i % 2)": 0.2,
    "np.int64(i)": 0.2,
    "float(i)": 0.5,
    "(0.0, -0.0, 1.0)[i % 3]": 0.3,
    "i % 2": 0.3,
    "draw({seed}, 0, D)": 0.15,
}
TRAINED = "Tensor(draw({seed}, N, D), requires_grad=True); Tensor(draw({seed}, D), requires_grad=True)"
OUTSIDE = choices(f"{TRAINED}; Tensor(draw({{seed}}, N, D)); draw({{seed}}, D); Tensor(draw({{seed}}, 1))")
CHANGES = {
    "Tensor": choices("""
        {}.data[...] = draw(90, *{}.shape); {}.data = draw(90, *{}.shape); {}.requires_grad_(False);
        {} = Tensor(draw(90, *{}.shape), requires_grad=True)
    """),
    "draw": choices("{}[...] = draw(90, *{}.shape); {} = draw(90, *{}.shape)"),
}
LOSSES = choices("""
    ({y} * {y}).sum(); {y}.sum(); {y}.mean(); {y}.tanh().mean();
    ({y} * np.cos(np.arange({y}.size)).reshape({y}.shape)).sum()
""")


class Unfit(Exception):
    """There is no value for a place in a template."""


class Formula(Writer):
    """A formula in the making. What has been written is computed at once for the sizes WRITTEN, so that shapes are known.

    made     lines that make the arguments, in the loop
    body     lines of the step
    known    names of values
    leaves   those that gradients can be asked of
    square   whether something may be as large as the square of an axis
    """

    def __init__(self, seed: int, forms: int | None) -> None:
        super().__init__(seed, forms)
        self.space: dict[str, Any] = {"np": np, "tg": tg, "Tensor": Tensor, "nn": nn, "optim": optim, "F": F, "op": OPS, "i": 0}
        self.space |= {"DT": self.dtype, **WRITTEN}
        for name in ("draw", "whole", "chances"):
            exec(HELPERS[name], self.space)
        self.made: list[Line] = []
        self.body: list[Line] = []
        self.known: list[str] = []
        self.leaves: list[str] = []
        self.square = False

    def write(self, name: str, text: str, where: list[Line], simpler: tuple[str, ...] = ()) -> bool:
        """name = text, if that can be computed and is of use."""
        try:
            with np.errstate(all="ignore"):
                value = eval(text, self.space)
        except Exception:  # a template that these shapes or dtypes do not fit
            return False
        data = value.data if isinstance(value, Tensor) else np.asarray(value)
        if data.size > 4000 or data.ndim > 6 or data.dtype.kind not in "fiub":
            return False
        if not np.abs(np.nan_to_num(data)).max(initial=0) < 1e4:
            return False
        inside = where is not self.setup and isinstance(value, np.ndarray)  # arrays are Tensors inside of a step
        self.space[name] = Tensor(value) if inside else value
        where.append(Line(f"{name} = {text}", simpler=simpler))
        self.known.append(name)
        return True

    def argument(self, name: str, text: str) -> None:
        """An argument of the step; a Tensor now and then."""
        if self.write(name, text, self.made) and isinstance(self.space[name], Tensor) and self.free.chance(0.25):
            trained = ", requires_grad=True" * (self.space[name].dtype.kind == "f" and self.free.chance(0.4))
            self.made[-1] = Line(f"{name} = Tensor({text}{trained})", simpler=(str(self.made[-1]),))

    def leaf(self, name: str, source: str) -> None:
        """A copy of a value that gradients can be asked of."""
        if self.write(name, f"Tensor({source}, requires_grad=True)", self.body):
            self.leaves.append(name)

    def outside(self, template: str) -> str:
        """Something made before the calls, that the step reads."""
        name = f"w{len(self.setup)}"
        text = template.replace("{seed}", str(30 + len(self.setup)))
        if not self.write(name, text, self.setup):
            raise Unfit
        if "requires_grad" in text:
            self.leaves.append(name)
        return name

    def tensors(self, kinds: str = "fiub") -> list[str]:
        return [name for name in self.known if isinstance(v := self.space[name], Tensor) and v.dtype.kind in kinds]

    def pick(self, wanted: str, beside: Any) -> str:
        """A value of the wanted kind; the latest ones more often."""
        names = self.tensors("f" if wanted in ("f", "m") else "fiub")
        if wanted == "m":
            names = [n for n in names if self.space[n].ndim == 2]
        elif wanted == "b":
            names = [n for n in self.known if fits(np.shape(self.space[n]), beside)]
        if not names:
            raise Unfit
        return names[-1 - min(int(self.form.expovariate(0.6)), len(names) - 1)]

    def fill(self, template: str) -> tuple[str, tuple[str, ...]]:
        """A template with values in its places, and the values."""
        used: list[str] = []
        shape: Any = None

        def put(match: re.Match[str]) -> str:
            nonlocal shape
            kind = match[1]
            if kind == "c":
                return self.form.one(*CONSTANTS)
            if kind in ("axis", "one"):
                ndim = len(shape or ())
                axes = [str(a) for a in range(-ndim, ndim)] or ["None"]
                pairs = [f"({a}, {b})" for a in range(ndim) for b in range(a)]
                return self.form.one(*axes, *(["None", *pairs] if kind == "axis" else []))
            if kind == "w":
                rows = next((name for name, size in WRITTEN.items() if size == shape[-1]), str(shape[-1]))
                return self.outside(f"Tensor(draw({{seed}}, {rows}, H) * 0.5, requires_grad=True)")
            if kind == "v":
                return self.outside("Tensor(draw({seed}, H), requires_grad=True)")
            name = self.pick(kind, shape or ())
            if shape is None:
                shape = np.shape(self.space[name])
            used.append(name)
            return name

        return re.sub(r"\{(\w*)\}", put, template), tuple(dict.fromkeys(used))

    def line(self) -> None:
        """One more statement, or none."""
        family = self.form.weighted(FAMILIES)
        template = self.form.one(*family)
        self.square |= family is PRODUCTS and "{w}" not in template
        try:
            if "{n}" in template:
                self.in_place(template)
            else:
                text, used = self.fill(template)
                self.write(f"v{len(self.body)}", text, self.body, used)
        except (Unfit, IndexError, TypeError):
            return

    def in_place(self, template: str) -> None:
        """A value of the formula's own is changed."""
        names = [n for n in self.tensors("f") if n.startswith("v")]
        if not names:
            raise Unfit
        name = self.form.one(*names)
        other = self.pick("b", self.space[name].shape) if "{b}" in template else ""
        text = template.replace("{n}", name).replace("{b}", other)
        try:
            exec(text, self.space)
        except Exception:  # as above
            return
        self.body.append(Line(text))

    def gradients(self) -> list[str]:
        """Lines that ask for gradients, and the names of what they give."""
        form = self.form
        after = [n for n in self.tensors("f") if self.space[n].requires_grad and n not in self.leaves]
        if not after or not form.chance(0.75):
            return []
        y, wanted = after[-1], tuple(dict.fromkeys(self.leaves))
        how = form.weighted({"grad": 6, "backward": 2, "kept": 1.5, "second": 2, "hvp": 0.5, "jacobian": 0.4})
        if how == "hvp":
            self.body.append(Line(f"g = tg.hvp(lambda t: (t * t).tanh().sum() + (t ** 3).mean(), {y}.detach(), {y}.detach())"))
            return ["g"]
        if how == "jacobian":
            self.body.append(Line(f"g = tg.jacobian(lambda t: t.tanh().sum(0), {y}.detach().reshape(-1)[:3])"))
            return ["g"]
        self.body.append(Line(f"l = {form.one(*LOSSES).replace('{y}', y)}", simpler=(f"l = {y}.sum()",)))
        if how == "grad":
            self.body.append(Line(f"g = tg.grad(l, [{PARTS}], allow_unused=True)", wanted))
        elif how == "second":
            self.body.append(Line(f"g = tg.grad(l, [{PARTS}], create_graph=True, allow_unused=True)", wanted))
            more = "sum((q * q).sum() for q in g if q is not None) + l"
            self.body.append(Line(f"h = tg.grad({more}, [{PARTS}], allow_unused=True)", wanted))
            return ["l", "g", "h"]
        else:
            self.body.append(Line("l.backward()"))
            if how == "kept":
                return ["l"]
            self.body.append(Line(f"g = [p.grad for p in ({PARTS},)]", wanted))
            self.body.append(Line(f"for p in ({PARTS},):\n    p.grad = None", wanted))
        return ["l", "g"]

    def finish(self, args: list[str], results: list[str]) -> None:
        """The function of the arguments that returns the results."""
        self.axes()
        if self.square:
            self.sizes |= {name: min(n, 300) for name, n in self.sizes.items()}
        results = list(dict.fromkeys(results))
        used = set(re.findall(r"\b\w+\b", "\n".join([*map(str, self.body), *results])))
        args = [name for name in args if name in used] or args[:1]
        returns = Line(f"return {PARTS}", tuple(results)) if len(results) > 1 else Line(f"return {results[0]}")
        self.steps.append(Step("step", ", ".join(args), (*self.body, returns)))
        self.loop = [line for line in self.made if named(line) in args] + [Line(f"r = step({', '.join(args)})")]
        self.setup = [line for line in self.setup if named(line) in used]


def named(line: Line) -> str:
    """What a line gives a value to."""
    return str(line).split(" = ")[0]


def fits(shape: tuple[int, ...], beside: tuple[int, ...]) -> bool:
    """Whether an array of a shape can be broadcast to another one."""
    return len(shape) <= len(beside) and all(n in (1, m) for n, m in zip(shape[::-1], beside[::-1], strict=False))


def formula(seed: int, forms: int | None) -> Formula:
    """A few expressions of a few arguments."""
    f = Formula(seed, forms)
    form, free = f.form, f.free
    for j, name in enumerate("xyuq"[: form.randint(1, 4)]):
        text = form.weighted(ARGUMENTS) if j or form.chance(0.5) else "draw({seed}, N, D)"
        f.argument(name, text.replace("{seed}", f"i + {100 * j}" if j else "i"))
    args = [named(line) for line in f.made]
    for _ in range(form.weighted({0: 3, 1: 3, 2: 1})):
        f.outside(form.one(*OUTSIDE))
    floating = [n for n in f.tensors("f") if n in args]
    if floating and form.chance(0.4):
        f.leaf("a", form.one(*floating))
    length = form.weighted({1: 2, 2: 3, 3: 3, 4: 3, 6: 3, 9: 1.5, 14: 0.5})
    for _ in range(4 * length):
        if len(f.body) < length:
            f.line()
    some = min(len(f.known), form.weighted({0: 3, 1: 3, 2: 2, 4: 0.5}))
    results = [form.one(*f.known[-3:]), *form.sample(f.known, some)]
    f.finish(args, results + f.gradients())
    if f.setup and free.chance(0.5):
        made = free.one(*f.setup)
        text = free.one(*CHANGES["Tensor" if "Tensor" in str(made) else "draw"]).replace("{}", named(made))
        f.loop.insert(-1, Line(f"if k == {free.one(3, 3, 4, 2, 1)}:\n    {text}", tag="value from outside changed"))
    return f
