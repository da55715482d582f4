"""Programs that are parts of training: steps of many forms."""

from __future__ import annotations

from collections.abc import Callable

from tests.fuzz.draw import choices
from tests.fuzz.program import Line
from tests.fuzz.scene import Draft, Scene, plain

RETURNS = {
    "return l": 6,
    "return l, z": 3,
    'return {"loss": l, "z": z}': 1,
    "return [l, (z, l)]": 1,
    "return Pair(l, z)": 1,
    "return Batch(l, z)": 0.7,
    "return types.SimpleNamespace(loss=l, z=z)": 0.3,
    "return l, z.softmax()": 1,
    "return l, z.argmax(-1)": 0.5,
    "return l.detach(), z.sum(0)": 0.5,
    "return l, z, z": 0.5,
    "return": 0.5,
}
USUAL = "o.zero_grad(); l.backward(); o.step()"
FORGET = "for p in m.parameters():\n    p.grad = None"
ORDERS = (
    *(USUAL, USUAL, "l.backward(); o.step(); o.zero_grad()", "m.zero_grad(); l.backward(); o.step()"),
    *(f"{FORGET}; l.backward(); o.step()", "l.backward(); o.step()"),
)
CLIPS = choices("""
    optim.clip_grad_norm(m.parameters(), 0.5, False); optim.clip_grad_norm(m.parameters(), np.float64(0.1), False);
    optim.clip_grad_value(m.parameters(), 0.01); optim.clip_grad_norm(o.params, 1e3, error_if_nonfinite=False)
""")  # in a compiled step a norm that is not finite is no error
PREDICTIONS = choices("""
    return z; return z; return z.softmax(); return z.argmax(-1), z; return m(x * 0.5), z; return z.log_softmax()
""")

Form = Callable[[Scene], None]
FORMS: dict[Form, float] = {}


def form(weight: float) -> Callable[[Form], Form]:
    def register(function: Form) -> Form:
        FORMS[function] = weight
        return function

    return register


def training(scene: Scene) -> None:
    """A model, a loss, and a step of one of the forms."""
    scene.widths()
    scene.stack()
    scene.objective()
    scene.keep_grads = scene.free.chance(0.25)
    if scene.free.chance(0.5):
        scene.returns = scene.form.weighted(RETURNS)
    scene.form.weighted(FORMS)(scene)


@form(8)
def whole_step(scene: Scene) -> None:
    """Forward, backward, update."""
    scene.optimiser()
    scene.train(*ORDERS)
    if scene.form.chance(0.15):
        scene.backward.append(Line(scene.form.one(*CLIPS)))
    scene.step(["x", "y"])


@form(2)
def gradients_returned(scene: Scene) -> None:
    scene.backward += map(Line, ("l.backward()", "g = [p.grad for p in m.parameters()]", "m.zero_grad()"))
    scene.returns = scene.form.one("return g", "return g, l", "return l, z, *g")
    scene.step(["x", "y"])


@form(1)
def gradients_asked_for(scene: Scene) -> None:
    scene.backward.append(Line("g = tg.grad(l, list(m.parameters()), allow_unused=True)"))
    scene.returns = scene.form.one("return g", "return g, l")
    scene.step(["x", "y"])


@form(0.7)
def penalty(scene: Scene) -> None:
    """The loss has gradients in it."""
    weights = scene.form.one("a.weight, b.weight", "b.weight")
    scene.loss.append(Line(f"g = tg.grad(l, [{weights}], create_graph=True)"))
    scene.loss.append(Line("l = l + 0.1 * sum((q * q).sum() for q in g)"))
    whole_step(scene)


@form(1)
def by_hand(scene: Scene) -> None:
    updates = (
        "p -= 0.1 * p.grad; p -= p.grad * np.float64(0.1); p[...] = p - 0.1 * p.grad; p *= 0.99\n        p -= 0.1 * p.grad"
    )
    update = scene.form.one(*choices(updates))
    scene.backward.append(Line("l.backward()"))
    scene.update += [Line(f"with tg.no_grad():\n    for p in m.parameters():\n        {update}"), Line("m.zero_grad()")]
    scene.step(["x", "y"])


@form(1)
def accumulating(scene: Scene) -> None:
    """Gradients of several calls are added up; the update is made outside."""
    scene.backward.append(Line("l.backward()"))
    scene.optimiser()
    scene.step(["x", "y"])
    texts = ("if k % 2:\n    o.step()\n    o.zero_grad()", "if k == 2:\n    o.zero_grad()", "if k % 3 == 2:\n    m.zero_grad()")
    scene.later.append(Line(scene.free.one(*texts)))


@form(1.5)
def forward_only(scene: Scene) -> None:
    scene.args.pop("y")
    scene.loss.clear()
    scene.returns = scene.form.one(*PREDICTIONS)
    if scene.form.chance(0.2):
        scene.forward = [Line("with tg.no_grad():\n    z = m(x)", simpler=("z = m(x)",))]
    scene.step(["x"])


@form(0.5)
def loss_only(scene: Scene) -> None:
    scene.step(["x", "y"])


@form(0.7)
def update_only(scene: Scene) -> None:
    """Gradients are made outside, the update is compiled."""
    scene.optimiser()
    scene.changes += [Line("z = m(x)"), *scene.loss, Line("l.backward()")]
    clear = scene.free.one("o.zero_grad()", "m.zero_grad()")
    scene.forward, scene.loss, scene.update = [], [], [Line("o.step()"), Line(clear)]
    if scene.free.chance(0.3):
        scene.update.insert(0, Line(CLIPS[0]))
    scene.returns = scene.free.one("return", "return o.steps", "return a.weight")
    scene.step([])


@form(0.7)
def in_parts(scene: Scene) -> None:
    """Every part of a step is compiled on its own."""
    scene.optimiser()
    scene.backward.append(Line("l.backward()"))
    scene.step(["x", "y"])
    scene.drafts += [
        Draft("clip", "", lines=[Line("return optim.clip_grad_norm(m.parameters(), 0.5, False)")]),
        Draft("update", "", lines=[Line("o.step()"), Line("return")]),
        Draft("clear", "", lines=[Line(scene.free.one("o.zero_grad()", "m.zero_grad()")), Line("return")]),
    ]
    scene.later += map(Line, ("clip()", "update()", "clear()"))


@form(0.7)
def micro_batches(scene: Scene) -> None:
    """Two calls of backward, one update."""
    scene.optimiser()
    other = "x = x * 1" if scene.args["x"].startswith("whole") else "x = x * 0.5"
    scene.backward += map(Line, ("o.zero_grad()", "l.backward()", other))
    scene.backward += [*scene.forward, *scene.loss, Line("l.backward()")]
    scene.update.append(Line("o.step()"))
    scene.step(["x", "y"])


@form(0.5)
def two_optimisers(scene: Scene) -> None:
    scene.optimiser("o", "a.parameters()")
    scene.optimiser("o2", "b.parameters()")
    scene.train("m.zero_grad(); l.backward(); o.step(); o2.step()")
    scene.step(["x", "y"])


@form(0.5)
def two_steps(scene: Scene) -> None:
    """Two compiled steps of one model take turns."""
    scene.optimiser("o")
    scene.optimiser("o2", "m.parameters()")
    scene.train("m.zero_grad(); l.backward(); o.step()")
    scene.step(["x", "y"])
    scene.drafts.append(Draft("other", scene.drafts[0].args, scene.drafts[0].first, swap=("o.step()", "o2.step()")))
    scene.later.append(Line(scene.call.replace("r = step", "q = other")))


@form(0.7)
def recurrent(scene: Scene) -> None:
    """One cell for all steps of a sequence."""
    form, times = scene.form, scene.form.one(2, 3, 5, 9)
    scene.setup, scene.layers = [], {}
    scene.args["x"] = f"draw(i, N, {times}, D)"
    scene.layer("a", "nn.Linear(D, H)", "Linear")
    scene.layer("cell", "nn.Linear(H, H)", "Linear")
    scene.layer("b", "nn.Linear(H, M)", "Linear")
    scene.setup.append(Line(f"m = nn.Sequential(a, cell, b){scene.to}"))
    cells = "tg.tanh(a(x[:, t]) + cell(h)); tg.relu(a(x[:, t]) + cell(h)); h * 0.5 + tg.sigmoid(a(x[:, t])) * cell(h).tanh()"
    text = f"h = a(x[:, 0])\nfor t in range(1, {times}):\n    h = {form.one(*choices(cells))}\nz = b(h)"
    scene.forward = [Line(text, simpler=("z = b(a(x[:, 0]))",))]
    whole_step(scene)


@form(0.5)
def two_heads(scene: Scene) -> None:
    """A second head on the same layers, with a loss of its own."""
    form = scene.form
    scene.setup.append(Line(f"head = nn.Linear(M, 2){scene.to}"))
    scene.forward.append(Line(form.one("z2 = head(z)", "z2 = head(z.relu())", "z2 = head(z).tanh()")))
    more = "(z2 ** 2).mean(); F.cross_entropy(z2, np.zeros(z2.shape[0], int)); z2.abs().mean()"
    scene.loss.append(Line(f"l = l + 0.5 * {form.one(*choices(more))}"))
    scene.optimiser("o", "[*m.parameters(), *head.parameters()]")
    scene.train(USUAL)
    scene.returns = form.one("return l", "return l, z2", "return z, z2, l")
    scene.step(["x", "y"])


@form(0.6)
def fitted(scene: Scene) -> None:
    """train.fit, compiled and not."""
    free = scene.free
    scene.setup.append(Line(f"def loss(z, y):\n    return {scene.loss[0].parts[0]}"))
    scene.optimiser()
    options = free.some(("l2=0.01", "clip_norm=0.5"), 2)
    loader = f"data.DataLoader(x, y, batch_size=max({free.one('3', '32', 'N')}, 1), shuffle={free.chance(0.5)})"
    given = [loader if free.chance(0.7) else "(x, y)", free.one("1", "2", "3"), *options]
    scene.args = {name: next(iter(plain(text)), text) for name, text in scene.args.items()}
    scene.call = f"r = fit(how, m, loss, o, {', '.join(given)})"
    scene.later.append(Line("m.zero_grad()"))


@form(0.15)
def averaged(scene: Scene) -> None:
    """An optimiser of the user's own that changes gradients before its step."""
    scene.setup.append(Line("o = Synced(m.parameters(), lr=0.1)", tag="optimiser of the user's that writes into gradients"))
    scene.train(USUAL)
    scene.step(["x", "y"])
