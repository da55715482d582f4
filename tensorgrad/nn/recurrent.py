"""Recurrent layers, and their cells for single steps."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from tensorgrad import ops
from tensorgrad.core.backend import DEFAULT_FLOAT, namespace, on, on_gpu_of
from tensorgrad.core.tensor import raw
from tensorgrad.errors import ArgumentError, DTypeError, ShapeError
from tensorgrad.nn import functional as F
from tensorgrad.nn import init
from tensorgrad.nn.arguments import as_floating, describe, flag, generator, integer, one_of, real
from tensorgrad.nn.module import Module, Parameter
from tensorgrad.ops.linalg import as_operand
from tensorgrad.ops.loss import as_target
from tensorgrad.ops.recurrent import inside

__all__ = ["GRU", "LSTM", "RNN", "GRUCell", "LSTMCell", "RNNCell"]


class Recurrent(Module):
    """Base of layers and cells: parameters with PyTorch's names, and the computation of a sequence.

    gates   width of the weights in units of hidden_size
    parts   index of each state in the result of the op: an LSTM has two, h and c
    """

    gates: ClassVar[int] = 1
    parts: ClassVar[tuple[tuple[int, ...], ...]] = ((),)
    nonlinearity: str

    def add_parameters(self, suffix: str, features: int, bias: bool, rng: np.random.Generator, dtype: Any) -> None:
        """Create weights (in, gates * hidden_size) and biases of a layer and direction; U(-a, a), a = 1/sqrt(hidden_size)."""
        width, a = self.gates * self.hidden_size, max(self.hidden_size, 1) ** -0.5
        for name, rows in (("ih", features), ("hh", self.hidden_size)):
            weight = rng.uniform(-a, a, (rows, width))
            setattr(self, f"weight_{name}{suffix}", Parameter(weight, dtype=dtype))
            values = rng.uniform(-a, a, width) if bias else None
            self.register_parameter(f"bias_{name}{suffix}", None if values is None else Parameter(values, dtype=dtype))
            self.transposed_in_torch += (f"weight_{name}{suffix}",)

    def states(self, x: Any, suffix: str, initial: tuple[Any, ...]) -> Any:
        """The states before and after each step of x (t, n, in), as the op returns them."""
        w, u = getattr(self, f"weight_ih{suffix}"), getattr(self, f"weight_hh{suffix}")
        b, c = getattr(self, f"bias_ih{suffix}"), getattr(self, f"bias_hh{suffix}")
        return self.sequence(x @ w if b is None else ops.linear(x, w, self.combined_bias(b, c)), initial, u, c)

    def combined_bias(self, b: Any, c: Any) -> Any:
        """The sum of both biases, without the part that the op adds itself."""
        return b + c

    def sequence(self, z: Any, initial: tuple[Any, ...], u: Any, c: Any) -> Any:
        """Apply the op of this kind to the input products z."""
        raise NotImplementedError

    def initial(self, shape: tuple[int, ...], hx: Any) -> tuple[Any, ...]:
        """The initial states, each of this shape: the given ones, or zeros."""
        caller, count = type(self).__name__, len(self.parts)
        if hx is None:
            return (self.zeros(shape),) * count
        if count == 1:
            hx = (hx,)
        elif not isinstance(hx, (tuple, list)) or len(hx) != count:
            raise ArgumentError(f"{caller}: hx must be (h, c), got {describe(hx)}")
        states = tuple(as_operand(caller, state) for state in hx)
        for name, state in zip("hc", states, strict=False):
            if state.shape != shape:
                raise ShapeError(f"{caller}: the initial state {name} has shape {state.shape}, expected {shape}")
        return states

    def zeros(self, shape: tuple[int, ...]) -> Any:
        """Zeros with the device and dtype of the parameters."""
        parameter = raw(next(self.parameters()))
        with on(parameter):
            return namespace([parameter]).zeros(shape, parameter.dtype)

    def input(self, x: Any, batched: int) -> Any:
        """x as an array or Tensor with `batched` axes, or one fewer, and input_size features."""
        caller = type(self).__name__
        x = as_operand(caller, x)
        if x.ndim not in (batched - 1, batched) or x.shape[-1] != self.input_size:
            kinds = self.kinds[batched]
            raise ShapeError(f"{caller}: input has shape {x.shape}, expected {kinds} with {self.input_size} features")
        return x

    input_size: int
    hidden_size: int
    kinds: ClassVar[dict[int, str]] = {
        2: "(features) or (n, features)",
        3: "(t, features), or (t, n, features) or with batch_first (n, t, features),",
    }


class Layers(Recurrent):
    """Stacked layers, each over the whole sequence before the next, in one direction or two."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        rng: np.random.Generator | None = None,
        dtype: np.typing.DTypeLike = DEFAULT_FLOAT,
    ) -> None:
        super().__init__()
        caller = type(self).__name__
        self.input_size, self.hidden_size = (
            integer(caller, "input_size", input_size),
            integer(caller, "hidden_size", hidden_size),
        )
        self.num_layers, self.batch_first = (
            integer(caller, "num_layers", num_layers, 1),
            flag(caller, "batch_first", batch_first),
        )
        self.dropout, self.bidirectional = real(caller, "dropout", dropout, 0, 1), flag(caller, "bidirectional", bidirectional)
        bias, dtype, rng = flag(caller, "bias", bias), as_floating(caller, dtype), generator(caller, rng) or init.generator()
        self.directions = ("", "_reverse")[: 1 + self.bidirectional]
        for layer in range(self.num_layers):
            features = self.hidden_size * len(self.directions) if layer else self.input_size
            for direction in self.directions:
                self.add_parameters(f"_l{layer}{direction}", features, bias, rng, dtype)

    def forward(self, x: Any, hx: Any = None, lengths: Any = None) -> Any:
        x = self.input(x, 3)
        is_single = x.ndim == 2
        if is_single:
            if lengths is not None:
                raise ArgumentError(f"{type(self).__name__}: lengths need a batch, got input {x.shape}")
            x = ops.expand_dims(x, 1)
        elif self.batch_first:
            x = x.swapaxes(0, 1)
        n = x.shape[1]
        count = self.num_layers * len(self.directions)
        shape = (count, self.hidden_size) if is_single else (count, n, self.hidden_size)
        initial = self.initial(shape, hx)
        ragged = None if lengths is None else Ragged(type(self).__name__, lengths, x)
        if ragged is not None:
            x = ragged.without_padding(x)
        ends: list[list[Any]] = [[] for _ in self.parts]
        for layer in range(self.num_layers):
            if layer and self.dropout:
                x = F.dropout(x, self.dropout, self.training)
            outputs = []
            for k, direction in enumerate(self.directions):
                at = layer * len(self.directions) + k
                start = tuple(s[at : at + 1] if is_single else s[at] for s in initial)
                reversed_x = x if not k else ops.flip(x, 0) if ragged is None else ragged.reversed(x)
                y = self.states(reversed_x, f"_l{layer}{direction}", start)
                for end, part in zip(ends, self.parts, strict=True):
                    end.append(y[(*part, -1)] if ragged is None else ragged.last(y, part))
                h = y[(*self.parts[0], slice(1, None))]
                outputs.append(h if not k else ops.flip(h, 0) if ragged is None else ragged.reversed(h))
            x = outputs[0] if len(outputs) == 1 else ops.concatenate(outputs, -1)
            if ragged is not None:
                x = ragged.without_padding(x)
        last = [ops.concatenate(end) if is_single else ops.stack(end) for end in ends]
        x = x[:, 0] if is_single else x.swapaxes(0, 1) if self.batch_first else x
        return x, (last[0] if len(last) == 1 else tuple(last))

    def extra_repr(self) -> str:
        settings = {"num_layers": self.num_layers, "batch_first": self.batch_first, "dropout": self.dropout}
        settings |= {"bidirectional": self.bidirectional, "bias": self.bias_ih_l0 is not None}
        defaults = {"num_layers": 1, "batch_first": False, "dropout": 0.0, "bidirectional": False, "bias": True}
        changed = [f"{name}={value}" for name, value in settings.items() if value != defaults[name]]
        return ", ".join([f"{self.input_size}, {self.hidden_size}", *changed])


class Cell(Recurrent):
    """A single step of one layer."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        rng: np.random.Generator | None = None,
        dtype: np.typing.DTypeLike = DEFAULT_FLOAT,
    ) -> None:
        super().__init__()
        caller = type(self).__name__
        self.input_size, self.hidden_size = (
            integer(caller, "input_size", input_size),
            integer(caller, "hidden_size", hidden_size),
        )
        bias, dtype = flag(caller, "bias", bias), as_floating(caller, dtype)
        self.add_parameters("", self.input_size, bias, generator(caller, rng) or init.generator(), dtype)

    def forward(self, x: Any, hx: Any = None) -> Any:
        x = self.input(x, 2)
        initial = self.initial((*x.shape[:-1], self.hidden_size), hx)
        if x.ndim == 1:
            initial = tuple(ops.expand_dims(s, 0) for s in initial)
        y = self.states(x.reshape((1, *(x.shape if x.ndim == 2 else (1, *x.shape)))), "", initial)
        last = [y[(*part, -1)] if x.ndim == 2 else y[(*part, -1, 0)] for part in self.parts]
        return last[0] if len(last) == 1 else tuple(last)

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}" + ("" if self.bias_ih is not None else ", bias=False")


class Ragged:
    """Sequences of different lengths in one array x (t, n, ...)."""

    def __init__(self, caller: str, lengths: Any, x: Any) -> None:
        (steps, n), data = x.shape[:2], raw(x)
        if isinstance(lengths, (list, tuple)):
            lengths = on_gpu_of(np.asarray(lengths, None if lengths else int), [data])
        lengths = as_target(lengths, caller)
        values = raw(lengths)
        if values.dtype.kind not in "iu" or values.shape != (n,):
            kind = DTypeError if values.dtype.kind not in "iu" else ShapeError
            raise kind(f"{caller}: lengths must be {n} integers, one per sequence, got {values.dtype} of {values.shape}")
        with on(data):
            xp = namespace([data])
            self.columns, at = xp.arange(n), xp.arange(steps)[:, None]
        self.lengths = lengths
        self.inside = inside(lengths, steps).swapaxes(0, 1)  # (t, n)
        self.places = ops.where(self.inside, lengths - 1 - at, at)

    def without_padding(self, x: Any) -> Any:
        """x (t, n, ...) with zeros after the end of each sequence."""
        return ops.where(ops.expand_dims(self.inside, 2), x, 0)

    def reversed(self, x: Any) -> Any:
        """Reverse each sequence; the padding after its end stays in place."""
        return x[self.places, self.columns]

    def last(self, y: Any, part: tuple[int, ...]) -> Any:
        """The state at the end of each sequence."""
        return (y[part] if part else y)[self.lengths, self.columns]


class RNN(Layers):
    """h_k = act(x_k W + b + h_{k-1} U + c): simple recurrent layers.

    Call with (x, hx=None, lengths=None); returns (output, h):

    x         (t, n, input_size), with batch_first (n, t, input_size), or one sequence (t, input_size)
    hx        initial states (num_layers * directions, n, hidden_size), layer by layer; 0 by default
    lengths   (n), integers in 0 .. t: the length of each sequence. Steps after it are ignored, the output there is 0, h is the
              state at the sequence's end, and the backward direction starts there
    output    (t, n, directions * hidden_size), of the last layer; with batch_first (n, t, directions * hidden_size)
    h         the final states, shaped like hx

    num_layers      stacked layers; the output of each is the input of the next
    nonlinearity    "tanh" or "relu"
    bias            False for no biases
    batch_first     True if the first axis of x and output is the batch; states are not affected
    dropout         probability of dropping an element between two layers in training
    bidirectional   True to also process the sequence backwards (2 directions); the outputs are concatenated
    rng             NumPy generator for the initial values; by default the one that nn.init.seed seeds

    Parameters have PyTorch's names: weight_ih_l0, weight_hh_l0, bias_ih_l0, bias_hh_l0, weight_ih_l0_reverse, ... Weights are
    (in, out), transposed from PyTorch's; weights and biases are drawn from U(-a, a) with a = 1/sqrt(hidden_size). Apart from
    its input products, each layer and direction is one operation, for any length of the sequence.

    Raises ShapeError, DTypeError or ArgumentError for input, states or lengths that do not fit.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        rng: np.random.Generator | None = None,
        dtype: np.typing.DTypeLike = DEFAULT_FLOAT,
    ) -> None:
        super().__init__(input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, rng=rng, dtype=dtype)
        self.nonlinearity = one_of(type(self).__name__, "nonlinearity", nonlinearity, ("tanh", "relu"))

    def sequence(self, z: Any, initial: tuple[Any, ...], u: Any, c: Any) -> Any:
        (h0,) = initial
        return ops.rnn(z, h0, u, self.nonlinearity)

    def extra_repr(self) -> str:
        return super().extra_repr() + ("" if self.nonlinearity == "tanh" else f", nonlinearity={self.nonlinearity!r}")


class RNNCell(Cell):
    """One step of nn.RNN: (x, h=None) to h; x (n, input_size) or (input_size), h (n, hidden_size) or (hidden_size)."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        *,
        rng: np.random.Generator | None = None,
        dtype: np.typing.DTypeLike = DEFAULT_FLOAT,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, rng=rng, dtype=dtype)
        self.nonlinearity = one_of(type(self).__name__, "nonlinearity", nonlinearity, ("tanh", "relu"))

    def sequence(self, z: Any, initial: tuple[Any, ...], u: Any, c: Any) -> Any:
        (h0,) = initial
        return ops.rnn(z, h0, u, self.nonlinearity)


class LstmSteps(Recurrent):
    """Common to LSTM and LSTMCell."""

    gates, parts = 4, ((0,), (1,))

    def sequence(self, z: Any, initial: tuple[Any, ...], u: Any, c: Any) -> Any:
        h0, c0 = initial
        return ops.lstm(z, h0, c0, u)


class LSTM(LstmSteps, Layers):
    """Long short-term memory: i, f, o = σ(a), m = tanh(a) with a = x_k W + b + h_{k-1} U + c, each of its part;
    c_k = f c_{k-1} + i m, h_k = o tanh c_k.

    Call with (x, hx=None, lengths=None), hx being (h, c); returns (output, (h, c)). Arguments are those of nn.RNN. Weights are
    4 hidden_size wide, with the gates in the order i, f, m, o.
    """


class LSTMCell(LstmSteps, Cell):
    """One step of nn.LSTM: (x, hx=None) to (h, c), hx being (h, c); x (n, input_size) or (input_size)."""


class GruSteps(Recurrent):
    """Common to GRU and GRUCell."""

    gates = 3

    def combined_bias(self, b: Any, c: Any) -> Any:
        n = self.hidden_size
        return b + ops.pad(c[: 2 * n], (0, n))  # the bias of m is added inside the reset gate

    def sequence(self, z: Any, initial: tuple[Any, ...], u: Any, c: Any) -> Any:
        (h0,), n = initial, self.hidden_size
        return ops.gru(z, h0, u, self.zeros((n,)) if c is None else c[2 * n :])


class GRU(GruSteps, Layers):
    """Gated recurrent units: r, w = σ(x_k W + b + h_{k-1} U + c), m = tanh(x_k W + b + r (h_{k-1} U + c)), each of its part;
    h_k = m + w (h_{k-1} - m).

    Arguments are those of nn.RNN. Weights are 3 hidden_size wide, with the gates in the order r, w, m; PyTorch calls w z and
    m n.
    """


class GRUCell(GruSteps, Cell):
    """One step of nn.GRU: (x, h=None) to h; x (n, input_size) or (input_size), h (n, hidden_size) or (hidden_size)."""
