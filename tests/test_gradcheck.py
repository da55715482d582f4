"""gradcheck, check_model and matches_formula: what passes, what fails, and what they say about it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorgrad.models import handwritten

import tensorgrad
from tensorgrad import Tensor, nn, ops
from tensorgrad.errors import DTypeError, GraphError, ShapeError
from tensorgrad.nn import functional as F
from tensorgrad.op import REGISTRY, Op
from tensorgrad.testing import GradientError, check_model, gradcheck, matches_formula
from tensorgrad.testing.strategies import batches, mlps, values

X = np.array([[0.3, -1.2, 0.7], [1.1, 0.4, -0.6]])


@pytest.fixture
def cube() -> Iterator[Op]:
    """An op whose rule is wrong by 1 %."""

    class Cube(Op):
        """y = x³

        forward    y  = x³
        backward   gx = 3 g x²
        """

        name, signature, reads = "cube", "()->()", "x"

        def forward(self, xp: Any, x: Any) -> Any:
            return x**3

        def backward(self, g: Any, y: Any, x: Any) -> Any:
            return (lambda: 3.03 * g * x * x,)

    yield Cube()
    del REGISTRY["cube"]


# What passes


@given(x=values((2, 3)), w=values((3, 2)), mode=st.sampled_from(["full", "directional"]), order=st.sampled_from([1, 2]))
def test_a_right_gradient(x: np.ndarray, w: np.ndarray, mode: str, order: int) -> None:
    report = gradcheck(lambda x, w: ((x @ w).tanh() * x[:, :2]).exp(), (x, w), mode=mode, order=order)
    assert report
    assert report.mode == mode
    assert set(report.verdicts) == {"ok"}
    assert all(f.absolute < 1e-7 for f in report.findings)
    if mode == "full":
        outputs = {1: 4, 2: 12}  # the values; then the gradients of both inputs
        entries = {1: 12, 2: 12 + 4}  # both inputs; then the weights of the values too
        assert report.verdicts["ok"] == sum(outputs[k] * entries[k] for k in range(1, order + 1))
        assert [f.name for f in report.findings] == ["input 0", "input 1", *["input 0", "input 1", "g"] * (order - 1)]


def test_the_numbers_in_the_report_are_the_gradients() -> None:
    found = gradcheck(lambda x: (x**3).sum(), np.array([1.0, -2.0, 0.5])).findings[0]
    at = int(re.search(r"\[(\d)\]", found.where)[1])
    assert found.recorded == pytest.approx([3.0, 12.0, 0.75][at])
    assert found.numerical == pytest.approx(found.recorded)
    assert found.shape == (3,)


def test_several_outputs_and_inputs_that_are_no_floats() -> None:
    at = np.array([2, 0])

    def fn(x: Tensor, at: np.ndarray, scale: Tensor) -> tuple[Tensor, Tensor]:
        return x[:, at] * scale, (x * x * scale).sum()

    report = gradcheck(fn, (X, at, 2.5))
    assert report.verdicts == {"ok": 5 * 6 + 5 * 1}
    assert [f.name for f in report.findings] == ["input 0", "input 2"]  # a Python float is an input as well
    assert [f.name for f in gradcheck(fn, (Tensor(X), at, 2.5), wrt=[2]).findings] == ["input 2"]
    named = gradcheck(lambda x, y: x * y.exp(), {"x": X, "y": Tensor(X[0])})
    assert [f.name for f in named.findings] == ["x", "y"]


def test_float32_is_raised() -> None:
    seen: list[np.dtype[Any]] = []

    def fn(x: Tensor) -> Tensor:
        seen.append(x.dtype)
        return x.sin()

    x = Tensor(X.astype(np.float32), True)
    report = gradcheck(fn, x)
    assert set(seen[:-1]) == {np.dtype(np.float64)}
    assert seen[-1] == np.float32  # and once as it comes, for the rounding of its gradient
    assert report.findings[0].absolute < 1e-12
    assert x.dtype == np.float32
    assert x.grad is None


def test_a_function_that_is_constant_but_for_rounding() -> None:
    """x⁻¹ x is the identity: its gradient is 0, and what rounding makes of it is nothing beside the 1 on its diagonal."""
    gradcheck(lambda x: ops.solve(-ops.inv(x), -ops.inv(x)), np.array([[3.0, 0.0], [0.0, 3.005]]))


def test_steps_out_of_the_domain() -> None:
    """Only small steps stay where the function can be computed; an error at the point itself is the user's to see."""

    def picky(x: Tensor) -> Tensor:
        if (x.data >= 1.0001).any():
            raise ValueError("too large")
        return (1.001 - x).log()

    assert gradcheck(picky, np.array([1.0, 0.5]), mode="full")
    assert not gradcheck(lambda x: picky(x) + x.detach(), np.array([1.0, 0.5]), raises=False)
    with pytest.raises(ValueError, match="too large"):
        gradcheck(picky, np.array([1.1]))


def test_nothing_to_compare_is_said() -> None:
    assert "nothing to compare" in str(gradcheck(lambda x: x * 2, np.zeros((0, 3))))


def test_a_function_that_does_not_depend_on_its_input() -> None:
    assert gradcheck(lambda x, y: y * 3.0, (X, X)).verdicts == {"ok": 72}
    assert gradcheck(lambda x: x.softmax(-1).sum(), X)  # 1 per row, up to the last digit


def test_functions_that_differentiate_inside() -> None:
    """A gradient penalty: the function records, and calls grad, itself."""

    def penalty(x: Tensor) -> Tensor:
        y = (x.tanh() ** 2).sum()
        (g,) = tensorgrad.grad(y, x, create_graph=True)
        return (g * g).sum()

    gradcheck(penalty, X, order=2)


class Embedded(nn.Module):
    """An embedding, a layer used twice, and one that the loss does not reach."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.layer, self.unused = nn.Embedding(5, 3), nn.Linear(3, 3), nn.Linear(2, 2)

    def forward(self, indices: Any) -> Any:
        return self.layer(self.layer(self.rows(indices)).tanh())


@pytest.mark.parametrize("mode", ["full", "directional"])
@pytest.mark.parametrize("order", [1, 2])
def test_models_of_many_kinds(mode: str, order: int) -> None:
    labels = np.array([0, 1, 2, 1])
    x = np.random.default_rng(0).normal(size=(4, 3))
    check_model(Embedded(), F.cross_entropy, np.array([0, 1, 4, 0]), labels, mode=mode, order=order)
    frozen = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5), nn.BatchNorm1d(3), nn.Linear(3, 3)).eval()
    next(frozen.parameters()).requires_grad = False
    report = check_model(frozen, F.cross_entropy, x, labels, mode=mode, order=order)
    assert mode == "directional" or "0.weight" not in [f.name for f in report.findings]
    deep = nn.Sequential(*[part for _ in range(12) for part in (nn.Linear(3, 3), nn.Sigmoid())])  # gradients of 1e-9
    check_model(deep, F.cross_entropy, x, labels, mode=mode, order=order)
    gradcheck(lambda z: tensorgrad.checkpoint(lambda t: t.tanh() * t, z), x, mode=mode, order=order)
    gradcheck(lambda z: F.cross_entropy(z * 1000, labels), x, mode=mode, order=order)
    for scale in (1e-20, 1e20):
        gradcheck(lambda z, scale=scale: z.sin().sum() * scale, x, mode=mode, order=order)
    gradcheck(lambda z: (z, z * z), x, mode=mode, order=order)


SCALES = [1e-12, 1e-6, 1.0, 1e6, 1e12]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("mode", ["full", "directional"])
def test_inputs_of_any_scale(scale: float, mode: str) -> None:
    assert gradcheck(lambda x: (x * x).log(), X * scale, mode=mode)
    with pytest.raises(GradientError):
        gradcheck(lambda x: (x * x.detach()).log(), X * scale, mode=mode)


# Kinks: PyTorch, JAX and autograd fail correct rules at them

KINKED: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": ops.relu,
    "abs": ops.abs,
    "clip": lambda x: ops.clip(x, 0.0, 1.0),
    "leaky_relu": ops.leaky_relu,
    "max": lambda x: ops.max(x, axis=0),
    "min": lambda x: ops.min(x),
    "maximum": lambda x: ops.maximum(x, x[::-1]),
    "norm": lambda x: ops.norm(x[:2]),
    "sign": ops.sign,
    "floor": ops.floor,
}
NEAR = [0.0, 1e-7, -1e-7, 3e-8, -1e-9, 1e-12, 1e-4, -1e-3]


@pytest.mark.parametrize("name", KINKED)
@pytest.mark.parametrize("by", NEAR)
def test_at_kinks_and_near_them(name: str, by: float) -> None:
    for x in (np.array([by, 0.0, -0.7]), np.array([by]), np.array([0.0, by, 1 + by, 1.0, 0.3])):
        report = gradcheck(KINKED[name], x, raises=False)
        assert report, report


@pytest.mark.parametrize("name", ["relu", "abs", "clip", "leaky_relu", "max", "min", "maximum"])
@pytest.mark.parametrize("by", [0.0, 1e-7, -1e-7, 3e-8])
@pytest.mark.parametrize("factor", [1.01, 0.99])
def test_a_rule_that_is_wrong_by_one_percent_fails_there_too(name: str, by: float, factor: float) -> None:
    """At (tie, tie, a regular one): a factor on the gradient shows at the tie wherever the right gradient is not 0."""

    def wrong(x: Tensor) -> Tensor:
        y = KINKED[name](x)
        return y * factor - y.detach() * (factor - 1)  # the value of y, the gradient times the factor

    x = np.array([by, 0.0])
    recorded = Tensor(x, True)
    KINKED[name](recorded).sum().backward()
    report = gradcheck(wrong, x, raises=False)
    if not recorded.grad.data.any():
        assert report  # 0 times the factor is 0
    elif (name == "clip" and by <= 0 and factor < 1) or (name == "leaky_relu" and by == 0 and factor > 1):
        assert set(report.verdicts) == {"ok", "kink"}  # between the slopes at both sides: a subgradient as well
    else:
        assert not report, report


def test_tied_entries_have_to_share_one_gradient() -> None:
    """0.99 and 0 are both between the slopes of max at a tie, but together they are no subgradient."""
    x = np.array([0.5, 0.5, 0.1])

    def wrong(x: Tensor) -> Tensor:
        y = x.max()
        return y * 0.99 + y.detach() * 0.01

    assert gradcheck(lambda x: x.max(), x).verdicts == {"kink": 2, "ok": 1}
    assert gradcheck(wrong, x, raises=False).verdicts == {"wrong": 2, "ok": 1}


def test_a_network_with_units_at_0() -> None:
    """Rows of zeros and biases of zeros: every hidden unit sits at its kink."""
    rng = np.random.default_rng(0)
    model = nn.Sequential(nn.Linear(4, 6, rng=rng), nn.ReLU(), nn.Linear(6, 3, rng=rng))
    list(model.parameters())[1].data[...] = 0
    x = np.concatenate([np.zeros((2, 4)), rng.normal(size=(2, 4))])
    for mode in ("full", "directional"):
        report = check_model(model, F.cross_entropy, x, np.array([0, 1, 2, 0]), mode=mode)
        assert report.verdicts["kink"]


# What fails, and how it is said


def test_the_op_whose_rule_is_wrong_is_named(cube: Op) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1 = nn.Linear(3, 2, rng=np.random.default_rng(0))
            self.fc2 = nn.Linear(2, 2, rng=np.random.default_rng(1))

        def forward(self, x: Any) -> Any:
            return self.fc2(cube(self.fc1(x)))

    for mode in ("full", "directional"):
        with pytest.raises(GradientError) as caught:
            check_model(Net(), F.cross_entropy, X, np.array([0, 1]), mode=mode)
        error = caught.value
        assert [node.op.name for node in error.suspects] == ["cube"]
        text = str(error)
        assert text.startswith(f"check_model: FAILED ({mode}; ")
        assert re.search(r"^fc1.weight +3×2 +1 +wrong ", text, re.MULTILINE)
        assert re.search(r"^fc2.weight +2×2 +1 +ok ", text, re.MULTILINE)
        assert re.search(r"The rule of cube is wrong on its own: cube \(2, 2\), recorded at test_gradcheck.py:\d+", text)
        assert "cube: backward   gx = 3 g x²" in text
        assert error.graph is not None
        assert error.script in text
        with pytest.raises(GradientError, match="gradcheck: FAILED") as again:  # the script shows the same fault
            exec(error.script.replace("import test_gradcheck", ""), {})
        recorded, numerical = re.search(r"recorded (\S+), numerical (\S+)$", error.script).groups()
        finding = again.value.report.failed[0]
        assert (finding.recorded, finding.numerical) == pytest.approx((float(recorded), float(numerical)))
        assert finding.recorded / finding.numerical == pytest.approx(1.01)


def test_a_fused_op_whose_rule_is_wrong_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    fused = REGISTRY["softmax_cross_entropy"]
    original = type(fused).backward

    def wrong(self: Any, *args: Any, **attrs: Any) -> Any:
        rules = original(self, *args, **attrs)
        return (lambda: rules[0]() * 1.001, *rules[1:])

    monkeypatch.setattr(type(fused), "backward", wrong)
    with pytest.raises(GradientError, match="The rule of softmax_cross_entropy is wrong on its own"):
        gradcheck(lambda z: F.cross_entropy(z, np.array([1, 2])), X)


def test_wrong_at_second_order_only() -> None:
    class Blind(Op):
        """y = x²

        forward    y  = x²
        backward   gx = 2 g x
        """

        name, signature, reads = "blind_square", "()->()", "x"

        def forward(self, xp: Any, x: Any) -> Any:
            return x * x

        def backward(self, g: Any, y: Any, x: Any) -> Any:
            return (lambda: g * (2 * (x.data if isinstance(x, Tensor) else x)),)

    blind = Blind()
    try:
        assert gradcheck(blind, X, order=1)
        with pytest.raises(GradientError, match="The rule of blind_square is wrong on its own") as caught:
            gradcheck(blind, X, order=2)
        assert caught.value.script.splitlines()[-2] == "gradcheck(fn, x, order=2)"
        assert [f.order for f in caught.value.report.failed] == [2]
    finally:
        del REGISTRY["blind_square"]


def test_a_rule_that_is_not_linear_in_g() -> None:
    class Clipped(Op):
        """y = x

        forward    y  = x
        backward   gx = g, but at most 1
        """

        name, signature = "clipped", "()->()"

        def forward(self, xp: Any, x: Any) -> Any:
            return x + 0.0

        def backward(self, g: Any, y: Any, x: Any) -> Any:
            return (lambda: ops.clip(g, -1.0, 1.0),)

    clipped = Clipped()
    try:
        for mode in ("full", "directional"):  # with ones for g, as one tries it, nothing shows
            assert not gradcheck(clipped, np.linspace(-3, 3, 8), mode=mode, raises=False)
    finally:
        del REGISTRY["clipped"]


VERDICTS: dict[str, tuple[Callable[..., Any], Any, str]] = {
    "part outside of the graph": (lambda x: x * x + x.detach() ** 2, X, "wrong"),
    "arithmetic on arrays": (lambda x: x * Tensor(np.exp(x.data)), X, "wrong"),
    "random numbers": (lambda x: F.dropout(x, 0.5, True), np.ones(50), "nondeterministic"),
    "infinite slope": (ops.sqrt, np.array([0.0, 1.0]), "non-finite"),
    "not a number": (lambda x: x.log(), np.array([-1.0, 1.0]), "non-finite"),
    "cancellation in the gradient": (lambda x: x.softplus() * 1e9 - x.softplus() * 1e9 + x * 1e-4, X, "precision"),
    "two kinks that cancel": (lambda x: x.relu() - (-x).relu(), np.array([0.0, 1.0]), "wrong"),
}


def test_values_that_cancel_do_not_hide_a_right_gradient() -> None:
    for mode in ("full", "directional"):
        for order in (1, 2):
            assert set(gradcheck(lambda x: x.softplus() + 1e9 - 1e9, X, mode=mode, order=order).verdicts) == {"ok"}


def test_precision_passes_where_it_is_allowed() -> None:
    fn, x, _ = VERDICTS["cancellation in the gradient"]
    report = gradcheck(fn, x, allow_precision=True)
    assert report
    assert report.verdicts["precision"]
    assert not gradcheck(lambda x: fn(x) + x.detach(), x, allow_precision=True, raises=False)


@pytest.mark.parametrize("case", VERDICTS)
@pytest.mark.parametrize("mode", ["full", "directional"])
def test_verdict(case: str, mode: str) -> None:
    fn, x, verdict = VERDICTS[case]
    report = gradcheck(fn, x, mode=mode, raises=False)
    assert report.failed[0].verdict == verdict, report
    assert f"\n{verdict}: " in str(report)
    with pytest.raises(GradientError, match=f"gradcheck: FAILED .*{verdict}"):
        gradcheck(fn, x, mode=mode)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: gradcheck(lambda x: x.data, X), GraphError, "gradcheck: the function returned ndarray, expected a Tensor"),
        (lambda: gradcheck(lambda x: x.astype(np.float32), X), DTypeError, "the function returned float32 from float64 inputs"),
        (
            lambda: gradcheck(lambda x: x.argmax(1), X),
            DTypeError,
            "gradcheck: the function returned int64, which has no gradient",
        ),
        (
            lambda: check_model(nn.ReLU(), F.cross_entropy, X, np.array([0, 1])),
            GraphError,
            "check_model: ReLU has no parameters that require a gradient",
        ),
        (lambda: gradcheck(lambda x: x, [X, X]), DTypeError, "gradcheck: inputs is a list of arrays, expected a tuple"),
        (lambda: gradcheck(lambda x: x, np.arange(3)), GraphError, "gradcheck: none of the 1 inputs has a floating dtype"),
        (lambda: gradcheck(lambda x: x, X, wrt=[1]), GraphError, "gradcheck: wrt has 1, which is not a floating input"),
        (lambda: gradcheck(lambda x: x, X, order=3), ValueError, "gradcheck: order must be 1 or 2, got 3"),
        (
            lambda: gradcheck(lambda x: x, X, mode="fast"),
            ValueError,
            'gradcheck: mode must be "full" or "directional", got \'fast',
        ),
        (
            lambda: matches_formula(lambda x: x * x, lambda x: x, X),
            ShapeError,
            "matches_formula: fn returned (2, 3), expected a 0-d",
        ),
        (
            lambda: matches_formula(lambda x: x.sum(), lambda x: 1.0, X),
            ShapeError,
            "matches_formula: the formula's gradient of input 0 has shape (), expected (2, 3)",
        ),
        (
            lambda: matches_formula(lambda x, y: (x * y).sum(), lambda x, y: y, (X, X)),
            ShapeError,
            "matches_formula: the formula returned 1 gradients, expected 2",
        ),
    ],
)
def test_mistakes(call: Callable[[], Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=re.escape(message)):
        call()


# Models and formulas


@given(data=st.data(), mode=st.sampled_from(["full", "directional"]))
def test_drawn_networks(data: st.DataObject, mode: str) -> None:
    model = data.draw(mlps())
    weights = [p.shape for p in model.parameters() if p.ndim == 2]
    x, y = data.draw(batches(weights[0][0], weights[-1][1]))
    before = model.state_dict()
    report = check_model(model, F.cross_entropy, x, y, mode=mode, raises=False)
    assert report, report
    for name, array in model.state_dict().items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, before[name])


def test_a_model_is_left_as_it_was() -> None:
    """Parameters, their gradients and running averages; also when the check fails on the way."""
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    F.cross_entropy(model(X.astype(np.float32)), np.array([0, 1])).backward()
    held = {name: (p.data, p.grad) for name, p in model.named_parameters()}
    buffers = {name: array.copy() for name, array in model.named_buffers()}
    x, y = np.random.default_rng(0).normal(size=(5, 3)), np.array([0, 1, 1, 0, 1])
    report = check_model(model, F.cross_entropy, x, y, order=2)
    assert [f.name for f in report.findings if f.order == 1] == list(held)
    with pytest.raises(ZeroDivisionError):
        check_model(model, lambda z, y: 1 / 0, X, np.array([0, 1]))
    for name, p in model.named_parameters():
        assert (p.data, p.grad) == held[name] or (p.data is held[name][0] and p.grad is held[name][1])
    for name, array in model.named_buffers():
        np.testing.assert_array_equal(array, buffers[name])
        assert array.dtype == buffers[name].dtype


def test_a_layer_that_forgets_a_parameter() -> None:
    class Forgetful(nn.Linear):
        def forward(self, x: Any) -> Any:
            return x @ self.weight + self.bias.detach()

    with pytest.raises(GradientError, match=r"(?m)^bias +2 +1 +wrong .* 0 "):
        check_model(Forgetful(3, 2), F.cross_entropy, X, np.array([0, 1]), mode="full")


def test_no_op_to_blame() -> None:
    with pytest.raises(GradientError, match=r"(?s)Every recorded op is right on its own.*look for .detach\(\)") as caught:
        gradcheck(lambda x: x * x * x.detach(), X)
    assert caught.value.suspects == ()
    assert caught.value.script == ""


def test_formulas() -> None:
    x, y = X, handwritten.one_hot(np.array([2, 0]), 3)
    report = matches_formula(lambda z: F.cross_entropy(z, y), lambda z: (handwritten.softmax(z) - y) / len(y), x)
    assert report.verdicts == {"ok": 12}  # fused and unfused
    assert [f.name for f in report.findings] == ["input 0 (fused)", "input 0 (unfused)"]
    with pytest.raises(GradientError, match=r"(?s)matches_formula: FAILED .*12 wrong.*\(numerical: by the formula\)"):
        matches_formula(lambda z: F.cross_entropy(z, y), lambda z: handwritten.softmax(z) - y, x)
    matches_formula(lambda x, w: (x @ w).sum(), lambda x, w: [np.ones((2, 2)) @ w.T, x.T @ np.ones((2, 2))], (X, X.T))


def test_the_script_for_an_op_of_a_script(cube: Op, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is defined in a script cannot be imported: the lines say where its class belongs."""
    for home, line in (("__main__", "# here the class of cube"), ("my.ops", "import my.ops  # where cube is defined")):
        monkeypatch.setattr(type(cube), "__module__", home)
        with pytest.raises(GradientError, match=re.escape(line)):
            gradcheck(cube, X)
