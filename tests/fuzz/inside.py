"""Habits inside of a step: raw writes, writes that are recorded, copies, values read, switches, other results."""

from __future__ import annotations

import re

from tests.fuzz.draw import CONSTANTS, choices
from tests.fuzz.habits import habit, layer_of, needs, parameter
from tests.fuzz.program import Line
from tests.fuzz.scene import LABELS, Scene

# Raw writes, to {}

RAW = choices("""
    {}.data *= 0.9; {}.data[...] = 0.5; {}.data -= 0.01; np.clip({}.data, -0.1, 0.1, out={}.data); {}.data.fill(0.25);
    np.copyto({}.data, 0.125); {}.data = {}.data * 0.5; {}.data[:1] = 0; np.multiply({}.data, 0.5, out={}.data);
    memoryview({}.data.reshape(-1).view('u1'))[:1] = b'0'; {}.data.sort(); np.negative({}.data, {}.data)
""")


def raw(scene: Scene, target: str) -> str:
    return scene.free.one(*RAW).replace("{}", target)


@habit("raw write to a parameter", 2)
def write_parameter(scene: Scene) -> None:
    where = scene.free.one(scene.start, scene.backward, scene.update, scene.end)
    scene.put(where, raw(scene, parameter(scene)))


@habit("raw write to a gradient", 2)
def write_gradient(scene: Scene) -> None:
    at = next((j for j, line in enumerate(scene.backward, 1) if "backward" in str(line)), 0)
    needs(scene.optimisers and at)
    g = f"{parameter(scene)}.grad"
    texts = (raw(scene, g), raw(scene, g), f"{g} = Tensor({g}.data * 0.5)", f"{g} = {g} * 0.5", f"{g} *= 0.5")
    scene.backward.insert(at, Line(scene.free.one(*texts), tag=scene.tag))


@habit("raw write to a buffer", 0.7)
def write_buffer(scene: Scene) -> None:
    name = f"{layer_of(scene, 'BatchNorm1d')}.{scene.free.one('running_mean', 'running_var')}"
    texts = choices("{}[...] = 0.5; np.copyto({}, 0.25); np.multiply({}, 0.9, out={}); {}.fill(1)")
    scene.put(scene.free.one(scene.start, scene.end), scene.free.one(*texts).replace("{}", name))


@habit("raw write to an argument", 1)
def write_argument_raw(scene: Scene) -> None:
    needs(scene.has_values)
    scene.args["x"] = scene.args["x"] if scene.args["x"].startswith("Tensor") else f"Tensor({scene.args['x']})"
    scene.put(scene.free.one(scene.start, scene.end), raw(scene, "x"))


@habit("write to an argument", 1)
def write_argument(scene: Scene) -> None:
    needs(scene.has_values)
    texts = choices("x += 1; x *= 0.5; x[:1] = 0; x.__iadd__(1); x[...] = x * 2")
    scene.put(scene.free.one(scene.start, scene.start, scene.end), scene.free.one(*texts))


@habit("raw write to an intermediate value", 0.7)
def write_value(scene: Scene) -> None:
    needs(scene.has("z") and not str(scene.forward[0]).startswith("with"))
    scene.put(scene.forward, raw(scene, "z"))


@habit("raw write to a Tensor from outside", 1)
def write_outside(scene: Scene) -> None:
    needs(scene.has("z"))
    scene.put(scene.setup, "t = Tensor(draw(50, M))")
    scene.put(scene.forward, "z = z + t")
    scene.put(scene.free.one(scene.start, scene.end), raw(scene, "t"))


@habit("raw write to an optimiser's state", 0.7)
def write_state(scene: Scene) -> None:
    needs(scene.optimisers)
    text = "for s in o.state:\n    for v in s.values():\n        v *= 0.5"
    scene.put(scene.free.one(scene.start, scene.update, scene.end), text)


@habit("state loaded inside of the step", 1)
def load_state(scene: Scene) -> None:
    if scene.free.chance(0.5) and scene.has("z") and scene.has("l"):  # a target network
        scene.put(scene.setup, "t = copy.deepcopy(m)")
        scene.put(scene.loss, "l = l + ((z - t(x).detach()) ** 2).mean()")
        scene.put(scene.end, "t.load_state_dict(m.state_dict())")
    else:
        scene.put(scene.setup, "saved = m.state_dict()")
        scene.put(scene.free.one(scene.start, scene.end), "m.load_state_dict(saved)")


@habit("optimiser's state loaded inside of the step", 0.4)
def load_optimiser(scene: Scene) -> None:
    needs(scene.optimisers)
    scene.put(scene.setup, "saved = o.state_dict()")
    scene.put(scene.end, "o.load_state_dict(saved)")


# Writes that are recorded


@habit("recorded write in place", 1.5)
def write_in_place(scene: Scene) -> None:
    p = parameter(scene)
    scene.put(scene.setup, f"e = Tensor({p}.data * 0)")
    texts = choices("""
        e *= 0.9\n    e += 0.1 * {}; e[...] = {}; e += 1\n    {} *= 0.9; {} -= 0.1 * {}; e[:1] = {}[:1] * 2;
        e -= 0.1 * (e - {}.detach())
    """)
    text = scene.free.one(*texts).replace("{}", p)
    outer = "nonlocal e\n" if re.search(r"\be [-+*]= ", text) else ""
    scene.put(scene.free.one(scene.start, scene.end), f"{outer}with tg.no_grad():\n    {text}")


@habit("intermediate value changed in place", 1)
def change_value(scene: Scene) -> None:
    needs(scene.has("z"))
    texts = "z += 1; z *= 0.5; z[:, :1] = 0; z[:1] = z[:1] * 2; z -= z.detach(); z = z * 1\nz += x.sum() * 0"
    scene.put(scene.forward, scene.free.one(*choices(texts)))


# Copies, and what is read from values

COPIES = choices("""
    Tensor({}); Tensor({}.detach()); {}.detach(); {}.detach() * 1; {} * 1; {} + 0; Tensor({}.data); copy.deepcopy({}); +{};
    {}.detach().reshape(-1); {}.astype({}.dtype); {}[...]; {}.T; {}.detach()[:1]; {}.data.copy(); {}.numpy().copy()
""")


@habit("copy of what is changed later", 2.5)
def copy_before(scene: Scene) -> None:
    """As people measure the length of a step."""
    needs(scene.update)
    p = parameter(scene)
    scene.put(scene.start, f"old = {scene.free.one(*COPIES)}".replace("{}", p))
    more = scene.free.one("old", "old", f"({p}.detach().reshape(-1)[:1] - old.reshape(-1)[:1])")
    scene.returns = f"return l, {more}" if scene.has("l") else f"return {more}"


@habit("value read in the step", 1.5)
def read_value(scene: Scene) -> None:
    needs(scene.has_values)
    texts = choices("""
        z = z / (1 + abs(x.data).max()); z = z * float(x.data[:1].sum()); z = z * x.numpy().mean(); z = z * z.data.std();
        z = z * x.sum().item(); z = z * float(x.sum()); if x.sum() > 0:\n    z = z * 2; z = z * Tensor(x.data).mean();
        z = z * x.__array__().mean(); z = z * int(x.sum()); z = z + x[x > 0].sum(); z = z * x.data.shape[0];
        z = z * np.asarray(x.detach()).mean(); z = z * len(x.tolist()); z = z * (1 if bool((x > 0).any()) else 2)
    """)
    scene.put(scene.forward, scene.free.one(*texts))


@habit("constant of NumPy's", 1)
def constants(scene: Scene) -> None:
    needs(scene.has("z"))
    texts = choices("""
        z = z * {}; z = {} * z; z = z / {}; z = z - {}; z = {} - z; z = tg.maximum(z, {}); z = z.clip(-1, {}); z = z ** {}
    """)
    scene.put(scene.forward, scene.free.one(*texts).replace("{}", scene.free.one(*CONSTANTS)))


# Switches, hooks, checkpoints


@habit("switch inside of the step", 1)
def switch(scene: Scene) -> None:
    needs(scene.has("z"))
    texts = "tg.manual_seed(0); tg.manual_seed(3); m.train(); m.eval(); with tg.detect_anomaly():\n    z = m(x * 1)"
    text = scene.free.one(*choices(texts))
    scene.put(scene.start, text)
    if "detect" in text and scene.has_values:
        scene.change("x = x * np.nan")
    elif "seed" in text:
        scene.put(scene.forward, "z = F.dropout(z, 0.5)")


@habit("hook inside of the step", 1)
def hook(scene: Scene) -> None:
    needs(scene.has("z") and scene.has("l") and scene.backward and not str(scene.forward[0]).startswith("with"))
    target, where = scene.free.one(("z", scene.forward), ("l", scene.loss))
    if scene.free.chance(0.6):
        scene.put(where, f"{target}.register_hook(lambda g: g * 0.5)")
    else:
        scene.put(where, f"{target}.retain_grad()")
        scene.returns = f"return l, {target}.grad"


@habit("checkpoint", 1)
def checkpoint(scene: Scene) -> None:
    needs(scene.has_values)
    texts = choices("""
        x = tg.checkpoint(lambda t: t * 2, x); z = tg.checkpoint(lambda t: t.tanh() * 2, z);
        z = tg.checkpoint(lambda s, t: s * 0.5 + t.sum() * 0, z, x)
    """)
    text = scene.free.one(*texts)
    scene.put(scene.start if text.startswith("x") else scene.forward, text)


# Results

OTHERS = choices("""
    return l.data; return (l, z.data); return types.SimpleNamespace(loss=l); return [l, 3, None, 'text']; return {l};
    return collections.deque([l]); return f"{l.data:.3f}"; return iter([l]); return a.weight; return l, a.weight; return x, l;
    return l, list(m.parameters()); return lambda: l; return l, x[:1]; return l.data.copy(); return l, m.state_dict()
""")


@habit("result of another kind", 1.5)
def results(scene: Scene) -> None:
    needs(scene.has("l"))
    more = choices("return o.steps; return l, o.steps; return o.lr, l; return l, o.state") if scene.optimisers else ()
    scene.returns = scene.free.one(*OTHERS, *more)
    scene.put(scene.later, "pass")


# Arguments besides the samples


@habit("factor as an argument", 3)
def factor(scene: Scene) -> None:
    needs(scene.has("l") and scene.call in ("r = step(x, y)", "r = step(x)") and len(scene.drafts) == 1)
    value = scene.free.one("i", "i / 2", "i % 2 + 1", "0 * i + 2", "-i")
    kinds = choices("""
        np.array({}, DT); np.float32({}); np.float64({}); float({}); Tensor(np.array({}, DT)); np.array([{}], DT); np.array({});
        Tensor(1.0 * ({})); bool({}); np.int64({}); np.bool_({}); np.array({}, 'float64')
    """)
    scene.argument("c", scene.free.one(*kinds).replace("{}", value))
    scene.put(scene.loss, "l = l * c")


@habit("class weights", 1)
def weights(scene: Scene) -> None:
    needs(scene.has("l") and scene.args.get("y", "").startswith(LABELS) and scene.call == "r = step(x, y)")
    if scene.free.chance(0.5):
        scene.argument("w", "draw(i, M, low=0.1)")
    else:
        scene.put(scene.setup, "w = draw(40, M, low=0.1)")
        scene.change(scene.free.one("w[:1] = 9", "w = draw(41, M, low=0.1)"))
    scene.put(scene.loss, "l = l + F.cross_entropy(z, y, w)")
