"""A training program in the making: a model, a loss, optimisers, the step and its call."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from tests.fuzz.draw import Draw, Writer, choices
from tests.fuzz.program import PARTS, Line, Step

ACTIVATIONS = {
    "nn.ReLU()": 4,
    "nn.GELU()": 3,
    "nn.SiLU()": 2,
    "nn.ELU()": 2,
    "nn.Tanh()": 2,
    "nn.Sigmoid()": 2,
    "nn.Softplus()": 1,
    "nn.LeakyReLU(0.1)": 1,
    'nn.GELU("tanh")': 1,
    "nn.Softmax()": 1,
    "nn.LogSoftmax()": 0.5,
    "nn.LeakyReLU(np.float64(0.2))": 0.3,
    "nn.Identity()": 0.3,
}

# Targets for z (N, M), and losses of z and y
LABELS, VALUES, CHANCES = "whole(i + 100, M, N)", "draw(i + 100, N, M)", "chances(i + 100, N, M)"
LOSSES = {
    (VALUES, "F.mse_loss(z, y)"): 4,
    (LABELS, "F.cross_entropy(z, y)"): 6,
    (CHANCES, "F.cross_entropy(z, y)"): 2,
    (LABELS, "F.cross_entropy(z, y, label_smoothing=0.1)"): 1,
    (LABELS, "F.cross_entropy(z, y, np.linspace(0.5, 2, M))"): 1,
    (LABELS, "F.cross_entropy(z, y, ignore_index=0)"): 1,
    (LABELS, 'F.cross_entropy(z, y, reduction="sum")'): 0.5,
    (LABELS, 'F.cross_entropy(z, y, reduction="none").mean()'): 0.5,
    (LABELS, "F.nll_loss(z.log_softmax(), y)"): 1,
    (LABELS, "-z.log_softmax()[np.arange(z.shape[0]), y].mean()"): 1,
    (LABELS, "-(tg.one_hot(y, M, z.dtype) * z.log_softmax()).sum() / max(z.shape[0], 1)"): 1,
    (CHANCES, "-(y * tg.log(z.softmax())).sum(-1).mean()"): 1,
    (VALUES, "F.l1_loss(z, y)"): 1,
    (VALUES, "F.huber_loss(z, y, delta=0.5)"): 1,
    (CHANCES, "F.binary_cross_entropy_with_logits(z, y)"): 2,
    (CHANCES, "F.binary_cross_entropy_with_logits(z, y, pos_weight=np.float64(2))"): 0.5,
    (CHANCES, "F.kl_div(z.log_softmax(), y)"): 1,
    (CHANCES, "-(y * tg.log(z.sigmoid()) + (1 - y) * tg.log(1 - z.sigmoid())).mean()"): 1,
    (VALUES, "((z - y) ** 2).sum(-1).mean()"): 1,
    (VALUES, "((z - y).abs() ** 1.5).mean()"): 0.5,
    (VALUES, "tg.maximum(1 - z * y, 0).mean()"): 1,
    (VALUES, "(z * z).mean() - (z * y).mean()"): 1,
    (VALUES, "z.logsumexp(-1).mean() - (z * y).sum() * 0.1"): 1,
    (VALUES, "(z - y).std() + z.var(0).mean()"): 0.5,
}
MORE_LOSS = {
    "0.01 * sum((p * p).sum() for p in m.parameters())": 3,
    "1e-3 * (a.weight ** 2).sum()": 1,
    "0.1 * z.abs().mean()": 1,
    "np.float64(1e-3) * a.weight.abs().sum()": 0.5,
    "0.5 * (z[:, :1] ** 2).mean()": 0.5,
    "0.1 * F.mse_loss(z, z.detach() * 0.5)": 0.5,
}
FACTORS = ("2 * ", "0.5 * ", "np.float32(0.5) * ", "np.float64(2) * ", "1e-2 * ")
LABEL_TYPES = (".astype('int32')", ".astype('uint8')", ".astype('int16')", ".astype('>i4')")

OPTIMISERS = {
    "SGD": choices(
        "momentum=0.9, weight_decay=0.01; momentum=np.float64(0.5), weight_decay=0.1; momentum=0.9, nesterov=True; "
        "momentum=0.5, dampening=0.3, maximize=True"
    ),
    "Adam": choices("betas=(0.8, 0.9), weight_decay=0.01; eps=np.float32(1e-3); eps=1e-2, betas=(0.0, 0.9); amsgrad=True"),
    "AdamW": choices("weight_decay=0.1; weight_decay=np.float64(0.0); amsgrad=True, maximize=True"),
    "RMSprop": choices("alpha=0.9, eps=1e-3; weight_decay=0.01; momentum=0.5, centered=True, eps=1e-2"),
    "Adagrad": choices("eps=1e-3, weight_decay=0.01; lr_decay=0.1"),
}
RATES = choices("0.1; 0.01; 0.2; np.float64(0.05); 0.0")


@dataclass
class Draft:
    """A function that is to be compiled.

    first   lines that unpack its arguments
    lines   its own ones; None for those of the scene
    swap    a line of the scene, and what it has instead
    """

    name: str
    args: str
    first: list[Line] = field(default_factory=list)
    lines: list[Line] | None = None
    swap: tuple[str, str] = ("", "")


class Scene(Writer):
    """What its parts are called, and the lines of its step by what they are for.

    layers    name to kind
    args      name to what it is made of
    start, forward, loss, backward, update, end   the lines of the step, and what it returns
    first, changes, later   lines of the loop: at its beginning, before and after the call
    tag       the habit that is adding lines
    """

    def __init__(self, seed: int, forms: int | None) -> None:
        super().__init__(seed, forms)
        self.layers: dict[str, str] = {}
        self.args: dict[str, str] = {}
        self.start: list[Line] = []
        self.forward: list[Line] = []
        self.loss: list[Line] = []
        self.backward: list[Line] = []
        self.update: list[Line] = []
        self.end: list[Line] = []
        self.returns = "return l"
        self.first: list[Line] = []
        self.changes: list[Line] = []
        self.later: list[Line] = []
        self.optimisers: list[str] = []
        self.drafts: list[Draft] = []
        self.call = ""
        self.tag = ""
        self.to = "" if self.dtype == "float32" else ".to(dtype=DT)"

    @property
    def parameters(self) -> list[str]:
        """Expressions of some parameters."""
        bare = [str(line).split(" = ")[0] for line in self.setup if "bias=False" in str(line)]
        kinds = ("Linear", "LayerNorm", "BatchNorm1d")
        found = [(name, p) for name, kind in self.layers.items() if kind in kinds for p in ("weight", "bias")]
        return [f"{name}.{p}" for name, p in found if p == "weight" or name not in bare]

    @property
    def has_values(self) -> bool:
        """Whether x is an argument of floating numbers."""
        return "x" in self.args and not self.args["x"].startswith("whole") and self.has("z")

    def has(self, name: str) -> bool:
        """Whether the step has a loss l, or a prediction z."""
        lines = {"l": self.loss, "z": self.forward}[name]
        return bool(lines) and not self.call.startswith(("r = step()", "r = fit"))

    # The parts

    def widths(self) -> None:
        """Sizes for matrix products: equal widths often, and as large as the thresholds ask for."""
        free = self.free
        self.axes()
        if self.scale in ("wide", "huge") and self.dtype == "float16":
            self.scale = "small"  # NumPy's products of those are slow
            self.axes()
        if self.scale in ("wide", "huge"):
            n = free.one(1, 2, 7, 64, 128, 129, 200, 256, 300) if self.scale == "wide" else free.one(1025, 2049)
            h = free.one(64, 127, 128, 129, 192, 256, 256, 512) if self.scale == "wide" else free.one(257, 512)
            self.sizes = {"N": n, "D": free.one(h, 8), "H": h, "M": free.one(h, 3, 10)}
        elif free.chance(0.3):
            self.sizes |= dict.fromkeys("DHM", free.one(2, 3, 4, 7))

    def stack(self) -> None:
        """The model: z (N, M) of x."""
        form = self.form
        kind = form.weighted({"features": 8, "indices": 1, "images": 0.7})
        parts = ["a"]
        if kind == "features":
            self.layer("a", f"nn.Linear(D, H{form.one('', '', '', ', bias=False')})", "Linear")
            self.args["x"] = self.array("draw(i, N, D)")
        elif kind == "indices":
            self.layer("a", "nn.Embedding(D, H)", "Embedding")
            self.args["x"] = "whole(i, D, N)"
        else:
            self.layer("a", "nn.Conv2d(1, H, 2, padding=1)", "Conv2d")
            parts += ["nn.BatchNorm2d(H)"] * form.chance(0.3)
            parts += [form.one("nn.ReLU()", "nn.Tanh()"), form.one("nn.MaxPool2d(2)", "nn.AvgPool2d(2)")]
            parts += ["nn.Flatten()", "nn.Linear(H * 4, H)"]
            self.args["x"] = "draw(i, N, 1, 4, 4)"
            if self.scale in ("wide", "huge"):
                self.sizes |= {"H": 8}
        for _ in range(form.weighted({0: 2, 1: 4, 2: 2, 3: 1})):
            parts += [self.activation(), *self.hidden()]
        if form.chance(0.8) or kind != "features":
            parts.append(self.activation())
        parts.append(self.layer("b", "nn.Linear(H, M)", "Linear"))
        parts += [self.activation()] * form.chance(0.1)
        if "bn" in self.layers and self.free.chance(0.95):
            self.sizes["N"] = max(self.sizes["N"], 2)
        self.setup.append(Line(f"m = nn.Sequential({PARTS}){self.to}", tuple(parts)))
        self.forward.append(Line("z = tg.checkpoint(m, x)" if form.chance(0.03) else "z = m(x)", simpler=("z = m(x)",)))

    def activation(self) -> str:
        text = self.form.weighted(ACTIVATIONS)
        return self.layer("c", text, text[3 : text.index("(")]) if self.form.chance(0.15) else text

    def hidden(self) -> list[str]:
        """Some layers from H to H."""
        form = self.form
        kind = form.weighted({"linear": 6, "residual": 1.5, "norm": 2, "batch": 2, "dropout": 1.5, "wide": 0.5})
        if kind == "residual":
            return [f"Residual(nn.Linear(H, H), {self.activation()})"]
        if kind == "norm":
            return [self.layer("ln", form.one("nn.LayerNorm(H)", "nn.LayerNorm(H, eps=np.float64(1e-3))"), "LayerNorm")]
        if kind == "batch":
            return [self.layer("bn", form.one("nn.BatchNorm1d(H)", "nn.BatchNorm1d(H, momentum=0.3)"), "BatchNorm1d")]
        if kind == "dropout":
            text = f"nn.Dropout({form.one('0.5', '0.2', 'np.float64(0.25)')}{form.one(', rng=np.random.default_rng(1)', '')})"
            return [self.layer("drop", text, "Dropout")]
        if kind == "wide":
            return ["nn.Linear(H, 2 * H)", self.activation(), "nn.Linear(2 * H, H)"]
        return [f"nn.Linear(H, H{form.one('', '', ', bias=False')})"]

    def layer(self, name: str, text: str, kind: str) -> str:
        """A layer with a name of its own; its text where the name has been given."""
        if name in self.layers:
            return text
        self.layers[name] = kind
        self.setup.append(Line(f"{name} = {text}"))
        return name

    def array(self, text: str) -> str:
        """An argument that lies in memory in one way or another, as an array or as a Tensor."""
        looks = {text: 8, f"np.asfortranarray({text})": 1, f"{text}[::-1]": 1, text.replace("N, D", "D, N") + ".T": 1}
        looks[text.replace("N, ", "2 * N, ") + "[::2]"] = 0.7
        look = self.free.weighted(looks)
        return f"Tensor({look})" if self.free.chance(0.25) else look

    def objective(self) -> None:
        """The loss l of z and y."""
        form = self.form
        target, text = form.weighted(LOSSES)
        self.args["y"] = target
        if target == LABELS and self.free.chance(0.5):
            self.args["y"] += self.free.one(*LABEL_TYPES)
        terms = [form.one(*FACTORS) + text if form.chance(0.15) else text]
        if form.chance(0.35):
            terms.append(form.weighted(MORE_LOSS))
        simpler = ("l = (z * z).mean()", "l = z.sum()", f"l = {text}")
        self.loss.append(Line(f"l = {PARTS}", tuple(terms), " + ", simpler))

    def optimiser(self, name: str = "o", params: str = "m.parameters()") -> None:
        kind, settings = optimiser(self.form)
        simpler = (f"{name} = optim.SGD({params}, lr=0.1)",)
        self.setup.append(Line(f"{name} = {kind}({params}, {PARTS})", settings, simpler=simpler))
        self.optimisers.append(name)

    def train(self, *orders: str) -> None:
        """The lines of backward and update, in one of these orders, apart by semicolons."""
        order = choices(self.form.one(*orders))
        at = order.index("l.backward()") + 1
        self.backward += map(Line, order[:at])
        self.update += map(Line, order[at:])

    def step(self, args: list[str], name: str = "step") -> None:
        """The function that is compiled, and its call."""
        signature, given, first = ", ".join(args), ", ".join(args), ""
        if len(args) == 2 and self.free.chance(0.25):
            signature, given, first = self.free.one(*CALLS)
        self.drafts.append(Draft(name, signature, [Line(first)] if first else []))
        self.call = self.call or f"r = {name}({given})"

    # What habits add

    def put(self, where: list[Line], text: str) -> None:
        where.append(Line(text, tag=self.tag))

    def change(self, *texts: str, always: bool = False) -> None:
        """Lines that are run before one of the calls, mostly when there are replays already, or before all of them."""
        at = self.free.one(3, 3, 3, 4, 4, 2, 1)
        for text in texts:
            inner = "\n    ".join(text.splitlines())
            self.put(self.changes, text if always else f"if k == {at}:\n    {inner}")

    def argument(self, name: str, made: str) -> None:
        """One more argument of the step."""
        self.args[name] = made
        self.call = f"{self.call[:-1]}, {name})"
        self.drafts[0].args += f", {name}"

    def assemble(self) -> None:
        """The steps and the loop, of all that has been said."""
        common = [*self.start, *self.forward, *self.loss, *self.backward, *self.update, *self.end]
        returns = Line(self.returns, simpler=tuple(s for s in ("return l", "return z", "return") if s != self.returns))
        for draft in self.drafts:
            old, new = draft.swap
            lines = [Line(new) if str(line) == old else line for line in common] if draft.lines is None else draft.lines
            last = [returns] if draft.lines is None else []
            self.steps.append(Step(draft.name, draft.args, (*draft.first, *lines, *last)))
        made = [Line(f"{name} = {text}", simpler=plain(text)) for name, text in self.args.items()]
        self.loop = [*self.first, *made, *self.changes, Line(self.call), *self.later]


# Signature, what is given, and how the step unpacks it
CALLS = (
    ("x, y", "x, y=y", ""),
    ("given", "Pair(x, y)", "x, y = given"),
    ("given", "Batch(x, y)", "x, y = given.x, given.y"),
    ("given", '{"x": x, "y": y}', 'x, y = given["x"], given["y"]'),
    ("given", "(x, [y])", "x, (y,) = given"),
)


def plain(text: str) -> tuple[str, ...]:
    """An array in the place of a Tensor."""
    return (text.removeprefix("Tensor(").removesuffix(")"),) if text.startswith("Tensor(") else ()


def optimiser(draw: Draw) -> tuple[str, tuple[str, ...]]:
    """One of the optimisers, and its settings."""
    kind = draw.weighted({"SGD": 4, "Adam": 3, "AdamW": 1, "RMSprop": 1, "Adagrad": 1})
    settings = [f"lr={draw.one(*RATES)}"]
    if draw.chance(0.6):
        settings += re.split(r", (?=\w+=)", draw.one(*OPTIMISERS[kind]))
    return f"optim.{kind}", tuple(settings)
