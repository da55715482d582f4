"""Habits between the calls of a step: what it depends on changed or replaced, its results and arguments used."""

from __future__ import annotations

import re

from tests.fuzz.draw import choices
from tests.fuzz.habits import habit, needs, parameter
from tests.fuzz.program import Line
from tests.fuzz.scene import LABELS, Draft, Scene, optimiser

NUMBERS = "number from outside changed"

# The model


@habit("parameter or part replaced", 2)
def replaced(scene: Scene) -> None:
    p = parameter(scene)
    made = f"{p} = nn.Parameter({p}.data * 0.5)"
    texts = [made, f"{p}.data = {p}.data * 0.5", f"{p}.data = draw(77, *{p}.shape)", 'setattr(m, "1", nn.Tanh())']
    if "bn" in scene.layers:
        more = "bn.running_mean = draw(78, H); bn.running_var = draw(78, H, low=0.5); m.eval()\nbn.running_mean = draw(78, H)"
        texts += choices(more)
    if scene.optimisers and scene.free.chance(0.3):
        texts = [f"{made}\no = optim.SGD(m.parameters(), lr=0.05)"]
    scene.change(scene.free.one(*texts))


@habit("parameters changed between calls", 1.5)
def changed(scene: Scene) -> None:
    texts = choices("""
        {}.data[...] = 0.25; {}.data *= 2; m.load_state_dict(saved); with tg.no_grad():\n    {}.__imul__(0.5); {}.data += 0.1
    """)
    text = scene.free.one(*texts).replace("{}", parameter(scene))
    scene.put(scene.setup, "saved = m.state_dict()")
    scene.change(text)


SETTINGS = {
    "Dropout": ("p = 0.9", "p = 0.0", "p = np.float64(0.1)", "rng = np.random.default_rng(5)"),
    "BatchNorm1d": ("eps = 0.5", "momentum = 0.9", "momentum = 0.0"),
    "LayerNorm": ("eps = 0.5",),
    "LeakyReLU": ("negative_slope = 0.7", "negative_slope = 0.0"),
    "ELU": ("alpha = 0.2",),
    "GELU": ('approximate = "tanh"',),
    "Softmax": ("axis = 0",),
    "LogSoftmax": ("axis = 0",),
    "Conv2d": ("padding = (1, 1)",),
    "Linear": ("bias = None",),
}


@habit("setting of a layer changed", 3)
def setting(scene: Scene) -> None:
    found = [f"{name}.{text}" for name, kind in scene.layers.items() for text in SETTINGS.get(kind, ())]
    needs(found)
    scene.change(scene.free.one(*found))


@habit("train() and eval() in turns", 1.5)
def modes(scene: Scene) -> None:
    name = scene.free.one("m", *[n for n, kind in scene.layers.items() if kind in ("Dropout", "BatchNorm1d")])
    text = scene.free.one(f"{name}.train(k % 2 == 0)", f"{name}.train(k % 3 != 2)", f"{name}.eval()", f"{name}.eval()")
    scene.change(text, always="train" in text)


@habit("requires_grad toggled", 1.5)
def frozen(scene: Scene) -> None:
    p = parameter(scene)
    texts = (f"{p}.requires_grad_(False)", f"{p}.requires_grad = False", f"{p}.requires_grad_(k % 2 == 0)")
    text = scene.free.one(*texts)
    scene.change(text, always="k %" in text)


@habit("hook added or removed", 1.5)
def hooks(scene: Scene) -> None:
    hook = scene.free.one(*choices("lambda g: g * 0.5; lambda g: g * 0; lambda g: None; lambda g: g.clip(-0.01, 0.01)"))
    register = f"{parameter(scene)}.register_hook({hook})"
    how = scene.free.one("added", "removed", "both")
    if how != "added":
        scene.put(scene.setup, f"remove = {register}")
        scene.change("remove()")
    if how != "removed":
        scene.change(register)


@habit("gradients set between calls", 1)
def gradients(scene: Scene) -> None:
    p = parameter(scene)
    all_of_them = "for p in m.parameters():\n    p.grad = Tensor(p.data * 0)"
    texts = (f"{p}.grad = None", f"{p}.grad = Tensor({p}.data * 0 + 1)", "m.zero_grad()", all_of_them)
    scene.change(scene.free.one(*texts), always=scene.free.chance(0.2))


@habit("gradient used after the call", 0.7)
def gradient_used(scene: Scene) -> None:
    p = parameter(scene)
    texts = choices("""
        if {}.grad is not None:\n    {}.grad.data[...] = 0; if {}.grad is not None:\n    {}.grad *= 0.5;
        ({} * 2).sum().backward(); (sum((p * p).sum() for p in m.parameters())).backward()
    """)
    scene.put(scene.later, scene.free.one(*texts).replace("{}", p))


# The optimiser


@habit("setting of an optimiser changed", 2.5)
def setting_of_optimiser(scene: Scene) -> None:
    needs("o" in scene.optimisers)
    free = scene.free
    made = next(str(line) for line in scene.setup if str(line).startswith("o = "))
    names = ["weight_decay"]
    if "SGD" in made:
        names += ["momentum"] * ("momentum" in made)
    else:
        names += ["betas", "eps"] if "Adam" in made else ["eps"]
    name = free.one(*names)
    values = {"eps": ["0.1", "np.float64(0.5)"], "betas": ["(0.0, 0.5)", "(0.5, np.float32(0.5))", "(0.25, 0.0)"]}
    usual = ["0.5", "0.25", "np.float32(0.5)", *(["0.0", "0"] if name != "momentum" or "nesterov" not in made else [])]
    value = free.one(*values.get(name, usual))
    texts = [f'o.settings["{name}"] = {value}', f"o.settings.update({name}={value})"] * 2
    texts += ["o.lr = 0.3", "o.lr = np.float64(0.2)", "o.lr = 0.0"]
    if "SGD" in made and "momentum" in made:
        texts.append(f"o.settings.update(nesterov={free.one('True', 'False')})")
    if free.chance(0.2):
        kind, params = made.removeprefix("o = ").split("(", 1)
        other = f"{kind}({params.split(', lr')[0]}, lr=0.02, weight_decay=0.3)"
        texts = [f"o.load_state_dict({other}.state_dict())"]
    scene.change(free.one(*texts))


@habit("new optimiser", 1.2)
def new_optimiser(scene: Scene) -> None:
    needs(scene.optimisers == ["o"])
    kind, settings = optimiser(scene.free)
    scene.change(f"o = {kind}(m.parameters(), {', '.join(settings)})")


@habit("copies of model and optimiser", 0.7)
def copied(scene: Scene) -> None:
    needs(scene.optimisers)
    made = ", ".join(["m", *scene.optimisers, *scene.layers])
    how = scene.free.one("copy.deepcopy", "lambda x: pickle.loads(pickle.dumps(x))")
    scene.change(f"{made} = ({how})(({made}))")


# Values from outside

OUTSIDE = (  # what is made, how it is used, how it is changed
    ("c = np.array(2.0, DT)", "c", "c[...] = 5"),
    ("c = np.array(2.0, DT)", "c", "c = np.array(5.0, DT)"),
    ("c = Tensor(2.0)", "c", "c.data[...] = 5"),
    ("c = Tensor(2.0)", "c", "c = Tensor(5.0)"),
    ("c = Tensor(np.array(2.0, DT))", "c", "c.data = np.array(5.0, DT)"),
    ("c = [Tensor(2.0), 3.0]", "c[0]", "c[0] = Tensor(5.0)"),
    ('c = {"w": np.array(2.0, DT)}', 'c["w"]', 'c["w"] = np.array(5.0, DT)'),
    ("c = types.SimpleNamespace(w=Tensor(2.0))", "c.w", "c.w = Tensor(5.0)"),
    ("c = np.full(M, 2.0).astype(DT)", "c", "c[:1] = 7"),
    ("c = np.full(M, 2.0).astype(DT)", "c", "c = np.full(M, 7.0).astype(DT)"),
    ("c = np.full(M, 2.0).astype(DT)", "Tensor(c)", "c[:1] = 7"),
    ("c = Tensor(np.full(M, 2.0).astype(DT))", "c", "c.data[:1] = 7"),
)


@habit("value from outside changed", 3)
def outside(scene: Scene) -> None:
    """A factor of the prediction or of the loss."""
    needs(scene.has("z"))
    made, used, after = scene.free.one(*OUTSIDE)
    scene.put(scene.setup, made)
    if "full" in made or not scene.has("l") or scene.free.chance(0.5):
        scene.put(scene.forward, f"z = z * {used}")
    else:
        scene.put(scene.loss, f"l = l * {used}")
    scene.change(after)


@habit(NUMBERS, 2)
def number(scene: Scene) -> None:
    needs(scene.has("z"))
    made, used, after = scene.free.one(
        ("c = 2.0", "c", "c = 5.0"),
        ("c = [2.0]", "c[0]", "c[0] = 5.0"),
        ('c = {"w": 2.0}', 'c["w"]', 'c["w"] = 5.0'),
        ("c = types.SimpleNamespace(w=2.0)", "c.w", "c.w = 5.0"),
        ("m.c = 2.0", "m.c", "m.c = 5.0"),
        ("c = [1, 2]", "len(c)", "c.append(3)"),
    )
    scene.put(scene.setup, made)
    scene.put(scene.forward, f"z = z * {used}")
    scene.change(after)


@habit("indices from outside changed", 1)
def indices(scene: Scene) -> None:
    needs(scene.has("z"))
    texts = "z = z + z.take(rows, 1)[:, :1]; z = z + z[:, rows][:, :1]; z = z * F.embedding(rows, b.weight)[0]"
    scene.put(scene.setup, "rows = whole(9, 2, 4) * 0")
    scene.put(scene.forward, scene.free.one(*choices(texts)))
    scene.change("rows[:] = M - 1")


# Results and arguments


@habit("result in a larger expression", 1.5)
def result_used(scene: Scene) -> None:
    needs(scene.has("z") and not scene.backward and scene.returns in ("return l", "return z", "return l, z"))
    value, p = "r[0]" if scene.returns == "return l, z" else "r", parameter(scene)
    scene.put(scene.later, f"({value} * {value} + ({p} * {p}).sum()).sum().backward()")


@habit("result written to", 1)
def result_written(scene: Scene) -> None:
    needs(scene.has("z") and scene.returns in ("return l", "return z", "return l, z", "return g"))
    value = "r" if scene.returns in ("return l", "return z") else "r[0]"
    texts = (f"{value}.data[...] = 7", f"{value}.data *= 0", f"x *= 0\n{value}.data += 1")
    scene.put(scene.later, scene.free.one(*texts))


@habit("argument written to after the call", 0.7)
def argument_written(scene: Scene) -> None:
    needs(scene.has("z"))
    scene.put(scene.later, "x *= 0")


@habit("several shapes in turn", 1.5)
def shapes(scene: Scene) -> None:
    n = scene.sizes["N"]
    numbers = scene.free.one((n, n, n, max(n // 2, 1), n, 1), (n, n + 1), (n, 1), (n, n, 1))
    scene.args = {name: re.sub(r"\bN\b", "n", text) for name, text in scene.args.items()}
    scene.put(scene.first, f"n = {numbers}[i % {len(numbers)}]")


@habit("label out of range", 0.5)
def bad_labels(scene: Scene) -> None:
    needs(scene.args.get("y", "").startswith(LABELS) and "\n" not in scene.call and scene.has("l"))
    needs(scene.backward)  # what nothing depends on is not computed, and so raises no error
    needs(not {"BatchNorm1d", "Dropout"} & {*scene.layers.values()})  # which, when the step fails, have done something or not
    needs("dropout" not in "".join(map(str, scene.forward)))
    scene.change("y = y * 0 + 200")
    scene.call = f"try:\n    {scene.call}\nexcept tg.errors.LabelError as e:\n    r = type(e).__name__"


@habit("NaN or infinity in the samples", 0.7)
def bad_numbers(scene: Scene) -> None:
    needs(scene.has_values)
    scene.change(scene.free.one("x = x * np.nan", "x = x / 0", "x = x * 1e30", "x = x * 0", "x = -x * 0"))


# Calls


@habit("switch outside of the step", 0.7)
def switch(scene: Scene) -> None:
    switch = scene.free.one("tg.detect_anomaly()", "tg.no_grad()", "tg.fusion.off()")
    # under detect_anomaly() the step itself is run, which leaves its gradients
    needs(not scene.update if "detect" in switch else not scene.backward if "no_grad" in switch else True)
    at = scene.free.one("k == 3", "k % 2", "True")
    scene.call = f"if {at}:\n    with {switch}:\n        {scene.call}\nelse:\n    {scene.call}"
    scene.put(scene.later, "pass")


@habit("threads changed", 0.7)
def threads(scene: Scene) -> None:
    scene.change(f"tg.set_num_threads({scene.free.one(1, 2, 3, 5)})")


@habit("the step itself in between", 0.7)
def eager(scene: Scene) -> None:
    needs(len(scene.drafts) == 1 and scene.call.startswith("r = step"))
    scene.change(scene.call.replace("r = step", "q = plain"), always=scene.free.chance(0.3))


@habit("copy of a compiled step", 0.3)
def compiled_copied(scene: Scene) -> None:
    needs(scene.drafts)
    scene.change(scene.free.one("step = copy.deepcopy(step)", "step = copy.copy(step)"))


@habit("compiled method", 0.3)
def method(scene: Scene) -> None:
    needs(len(scene.drafts) == 1 and scene.call == "r = step(x, y)")
    scene.drafts[0].args = f"self, {scene.drafts[0].args}"
    scene.put(scene.setup, "class Trainer:\n    pass")
    scene.change("Trainer.step = step", always=True)
    scene.call = "r = Trainer().step(x, y)"


@habit("compiled in compiled", 0.3)
def nested(scene: Scene) -> None:
    needs(len(scene.drafts) == 1 and scene.call == "r = step(x, y)")
    scene.drafts.append(Draft("outer", "x, y", lines=[Line("return step(x, y)", tag=scene.tag)]))
    scene.call = "r = outer(x, y)"


@habit("fork", 0.04)
def fork(scene: Scene) -> None:
    needs(len(scene.drafts) == 1 and scene.call.startswith("r = step("))
    scene.put(scene.later, f"if k == 4:\n    q = forked(lambda: {scene.call[4:]})")
    scene.threads = 2
