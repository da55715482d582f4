"""Recurrent networks over a whole sequence, each as one op with backpropagation through time as its rule.

An op gets z, the input products x W + b of all steps, which `linear` computes as one product, and returns the states before and
after every step: [0] is the initial state, [-1] the final one. Its gradient computes those of the gates of all steps, by
another op, and that of U by one product.

If a gradient is to be differentiated again, the same formulas are recorded step by step, as plain operations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tensorgrad.core.backend import Array, Xp, check, on_gpu
from tensorgrad.core.op import Op, Rules, Sample, Tangents, Value
from tensorgrad.core.operand import Operand, T
from tensorgrad.core.signature import Shape
from tensorgrad.core.state import describe, scoped, state
from tensorgrad.core.tensor import Tensor
from tensorgrad.errors import ArgumentError, LabelError, ShapeError
from tensorgrad.kernels import recurrent
from tensorgrad.ops.activation import sigmoid, tanh
from tensorgrad.ops.activation_grad import relu_grad, tanh_grad
from tensorgrad.ops.linalg import matmul
from tensorgrad.ops.pad import pad
from tensorgrad.ops.rearrange import concatenate, stack
from tensorgrad.ops.shape import rows

__all__ = ["gru", "lstm", "rnn"]


class Recurrent(Op):
    """Base of the three networks.

    gates   width of z in units of the width of a state
    """

    gates = 1
    real = True

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        t, n, h = (int(s) for s in rng.choice(sizes, 3))
        u = rng.uniform(-1, 1, (h, self.gates * h))
        return (self.values(rng, (t, n, self.gates * h)), self.values(rng, (n, h)), u), {}

    def flops(self, shapes: Sequence[Shape], out: Shape, attrs: Mapping[str, Any]) -> int:
        t, n, width = shapes[0]
        return t * n * width * (2 * shapes[1][1] + 5)

    def check(self, u: Array, *args: Array) -> None:
        """Raise an error unless all arguments fit the signature, and z and U are `gates` times as wide as a state."""
        if self.parsed.mismatch([a.shape for a in args]):
            raise ValueError("shapes are incompatible")  # the signature has a better message
        z, h0, *_ = args
        width = self.gates * h0.shape[-1]
        if z.shape[-1] != width or u.shape[-1] != width:
            raise ShapeError(
                f"{scoped(self.name)}: z {z.shape} and u {u.shape} must be {width} wide, {self.gates} times h0 {h0.shape}"
            )

    def gradients_of(self, op: Op, *args: Value, **attrs: Any) -> Value:
        """The gradients of all steps: by their own op or, to be differentiated again, by formulas."""
        is_recorded = state.recording and any(isinstance(a, Tensor) for a in args)
        return op.through_time(*args, **attrs) if is_recorded else op.apply(*args, **attrs)  # type: ignore[attr-defined]


class Rnn(Recurrent):
    """The states of a simple recurrent network.

    activation   "tanh" or "relu"

    forward    y_0 = h0,   y_k = act(z_k + y_{k-1} U)             z (t,n,h), h0 (n,h), U (h,h) to y (t+1,n,h)
    backward   dz_k = act'(z_k) (g_k + dz_{k+1} Uᵀ), from the last step to the first
               gz = dz,   gh0 = g_0 + dz_1 Uᵀ,   gU = sum_k y_{k-1}ᵀ dz_k
    tangent    ty_0 = th0,   ty_k = act'(z_k) (tz_k + ty_{k-1} U + y_{k-1} tU)
    """

    name, signature, reads = "rnn", "(t,n,h),(n,h),(h,h)->(...)", "y u"

    def __call__(self, z: Operand[T], h0: Operand[T], u: Operand[T], activation: str = "tanh") -> T | Array:
        if not isinstance(activation, str) or activation not in ("tanh", "relu"):
            raise ArgumentError(f"{scoped(self.name)}: activation must be 'tanh' or 'relu', got {describe(activation)}")
        return self.apply(z, h0, u, activation=activation)

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        (z, h0, u), _ = super().sample(rng, sizes)
        if rng.random() < 0.5:
            return (z, h0, u), {"activation": "tanh"}
        far = np.where(z < 0, -2.5, 2.5) + z / 4  # keep every unit away from 0: |h U| < 2 / 3 of the largest |z|
        return (far, h0, u / (2 * max(len(u), 1))), {"activation": "relu"}

    def forward(self, xp: Xp, z: Array, h0: Array, u: Array, *, activation: str) -> Array:
        self.check(u, z, h0, u)
        y = states(xp, (len(z) + 1, *h0.shape), z, h0, u)
        y[0] = h0
        for k in range(z.shape[0]):
            a = y[k] @ u
            a += z[k]
            y[k + 1] = xp.tanh(a) if activation == "tanh" else xp.maximum(a, 0)
        return y

    def backward(self, g: Value, y: Value, z: Value, h0: Value, u: Value, *, activation: str) -> Rules:
        d = self.gradients_of(rnn_grad, g, y, u, activation=activation)
        return lambda: d[:-1], lambda: d[-1], lambda: rows(y[:-1]).T @ rows(d[:-1])

    def jvp(self, y: Value, z: Value, h0: Value, u: Value, *, activation: str) -> Tangents:
        slope = tanh_grad if activation == "tanh" else relu_grad

        def tangent(tz: Value, th0: Value, tu: Value) -> Value:
            t, tangents = y[0] * 0 if th0 is None else th0, []
            for k in range(z.shape[0]):
                tangents.append(t)
                t = slope(add_up(t @ u, tz if tz is None else tz[k], tu if tu is None else y[k] @ tu), y[k + 1])
            return stack([*tangents, t])

        return tangent


class RnnGrad(Op):
    """The gradients of `rnn` for all steps; d (t+1,n,h).

    forward    d_k = act'(z_k) (g_k + d_{k+1} Uᵀ) of the steps, in order;   last that of h0, g_0 + d_1 Uᵀ
    """

    name, signature = "rnn_grad", "(s,n,h),(s,n,h),(h,h)->(...)"

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        (z, h0, u), attrs = rnn.sample(rng, sizes)
        y = rnn(z, h0, u, **attrs)
        return (self.values(rng, y.shape), y, u), attrs

    def forward(self, xp: Xp, g: Array, y: Array, u: Array, *, activation: str) -> Array:
        return self.through_time(g, y, u, activation=activation)

    def through_time(self, g: Value, y: Value, u: Value, *, activation: str) -> Value:
        slope = tanh_grad if activation == "tanh" else relu_grad
        d, gradients = g[-1], []
        for k in reversed(range(g.shape[0] - 1)):
            gradients.append(slope(d, y[k + 1]))
            d = g[k] + gradients[-1] @ u.T
        return stack([*reversed(gradients), d])


class Lstm(Recurrent):
    """The states of a network with long short-term memory (Hochreiter and Schmidhuber 1997, with the forget gate of Gers,
    Schmidhuber and Cummins 2000). Gates are in the order i, f, m, o; m is the candidate state.

    forward    i, f, o = σ(z_k + h_{k-1} U),   m = tanh(z_k + h_{k-1} U),   each of its part
               c_k = f c_{k-1} + i m,   h_k = o tanh c_k;   y = (h, c)
               z (t,n,4h), h0 (n,h), c0 (n,h), U (h,4h) to y (2,t+1,n,h)
    backward   dh_k = gh_k + dz_{k+1} Uᵀ,   dc_k = gc_k + f_{k+1} dc_{k+1} + dh_k o (1 - tanh² c_k), from the last to the first
               dz_k = (dc m i (1 - i),  dc c_{k-1} f (1 - f),  dc i (1 - m²),  dh tanh(c_k) o (1 - o))
               gz = dz,   gh0 = dh_0,   gc0 = gc_0 + f_1 dc_1,   gU = sum_k h_{k-1}ᵀ dz_k
    tangent    ta = tz_k + th U + h_{k-1} tU,   tc_k = tf c_{k-1} + f tc_{k-1} + ti m + i tm,   ti = ta i (1 - i), ...
               th_k = to tanh c_k + o (1 - tanh² c_k) tc_k
    """

    name, signature, reads = "lstm", "(t,n,k),(n,h),(n,h),(h,k)->(...)", "y z u"
    gates = 4

    def __call__(self, z: Operand[T], h0: Operand[T], c0: Operand[T], u: Operand[T]) -> T | Array:
        return self.apply(z, h0, c0, u)

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        (z, h0, u), _ = super().sample(rng, sizes)
        return (z, h0, self.values(rng, h0.shape), u), {}

    def forward(self, xp: Xp, z: Array, h0: Array, c0: Array, u: Array) -> Array:
        self.check(u, z, h0, c0, u)
        if xp is np and (fast := recurrent.lstm(z, h0, c0, u)) is not None:
            return fast
        y, n = states(xp, (2, len(z) + 1, *h0.shape), z, h0, c0, u), u.shape[0]
        y[0, 0], y[1, 0] = h0, c0
        for k in range(z.shape[0]):
            i, f, m, o = gates(z[k] + y[0, k] @ u, n)
            y[1, k + 1] = f * y[1, k] + i * m
            y[0, k + 1] = o * xp.tanh(y[1, k + 1])
        return y

    def backward(self, g: Value, y: Value, z: Value, h0: Value, c0: Value, u: Value) -> Rules:
        d, n = self.gradients_of(lstm_grad, g, y, z, u), u.shape[0]
        return (
            lambda: d[:-1],
            lambda: d[-1][:, :n],
            lambda: d[-1][:, n : 2 * n],
            lambda: rows(y[0, :-1]).T @ rows(d[:-1]),
        )

    def jvp(self, y: Value, z: Value, h0: Value, c0: Value, u: Value) -> Tangents:
        def tangent(tz: Value, th0: Value, tc0: Value, tu: Value) -> Value:
            n = u.shape[0]
            i, f, m, o = gates(z + matmul(y[0, :-1], u), n)
            t = tanh(y[1, 1:])
            th, tc = (y[0, 0] * 0 if x is None else x for x in (th0, tc0))
            hs, cs = [th], [tc]
            for k in range(z.shape[0]):
                ta = add_up(th @ u, tz if tz is None else tz[k], tu if tu is None else y[0, k] @ tu)
                ti, tf, tm, to = (ta[:, j * n : (j + 1) * n] for j in range(4))
                tc = f[k] * tc + tf * (f[k] * (1 - f[k])) * y[1, k]
                tc = tc + ti * (i[k] * (1 - i[k])) * m[k] + i[k] * (tm * (1 - m[k] * m[k]))
                th = to * (o[k] * (1 - o[k])) * t[k] + o[k] * (1 - t[k] * t[k]) * tc
                hs.append(th)
                cs.append(tc)
            return stack([stack(hs), stack(cs)])

        return tangent


class LstmGrad(Op):
    """The gradients of `lstm` for all steps; d (t+1,n,4h), from g (2,t+1,n,h), y (2,t+1,n,h), z (t,n,4h), U (h,4h).

    forward    d = dz of `lstm` for the steps, in order;   last (gh0, gc0, 0, 0)
    """

    name, signature = "lstm_grad", "(b,s,n,h),(b,s,n,h),(t,n,k),(h,k)->(...)"

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        (z, h0, c0, u), _ = lstm.sample(rng, sizes)
        y = lstm(z, h0, c0, u)
        return (self.values(rng, y.shape), y, z, u), {}

    def forward(self, xp: Xp, g: Array, y: Array, z: Array, u: Array) -> Array:
        fast = recurrent.lstm_grad(g, y, z, u) if xp is np else None
        return self.through_time(g, y, z, u) if fast is None else fast

    def through_time(self, g: Value, y: Value, z: Value, u: Value) -> Value:
        n = u.shape[0]
        i, f, m, o = gates(z + matmul(y[0, :-1], u), n)  # states of all steps are known
        c, t = y[1, :-1], tanh(y[1, 1:])
        factor_i, factor_f, factor_m, factor_o = m * i * (1 - i), c * f * (1 - f), i * (1 - m * m), t * o * (1 - o)
        factor_c = o * (1 - t * t)
        dh, dc, gradients = g[0, -1], g[1, -1], []
        for k in reversed(range(z.shape[0])):
            dc = dc + dh * factor_c[k]
            gradients.append(concatenate([dc * factor_i[k], dc * factor_f[k], dc * factor_m[k], dh * factor_o[k]], -1))
            dh, dc = g[0, k] + gradients[-1] @ u.T, g[1, k] + dc * f[k]
        return stack([*reversed(gradients), pad(concatenate([dh, dc], -1), ((0, 0), (0, 2 * n)))])


class Gru(Recurrent):
    """The states of a network with gated recurrent units (Cho et al. 2014, with the reset gate after the product with U, as in
    cuDNN and PyTorch). Gates are in the order r, w, m; m is the new state, w the fraction of the old one that is kept.

    forward    r, w = σ(z_k + h_{k-1} U),   m = tanh(z_k + r q) with q = h_{k-1} U + b, each of its part
               h_k = m + w (h_{k-1} - m)
               z (t,n,3h), h0 (n,h), U (h,3h), b (h) to y (t+1,n,h)
    backward   dh_k = g_k + w_{k+1} dh_{k+1} + (dr_{k+1}, dw_{k+1}, dq_{k+1}) Uᵀ, from the last step to the first
               dm = dh (1 - w) (1 - m²),   dq = r dm,   dr = q dm r (1 - r),   dw = dh (h_{k-1} - m) w (1 - w)
               gz = (dr, dw, dm),   gh0 = dh_0,   gU = sum_k h_{k-1}ᵀ (dr, dw, dq),   gb = sum of dq
    tangent    ta = th U + h_{k-1} tU,   tm = (1 - m²) (tz_k + tr q + r (ta + tb)),   tr = (tz_k + ta) r (1 - r), ...
               th_k = tm + tw (h_{k-1} - m) + w (th_{k-1} - tm)
    """

    name, signature, reads = "gru", "(t,n,k),(n,h),(h,k),(h)->(...)", "y z u b"
    gates = 3

    def __call__(self, z: Operand[T], h0: Operand[T], u: Operand[T], b: Operand[T]) -> T | Array:
        return self.apply(z, h0, u, b)

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        args, _ = super().sample(rng, sizes)
        return (*args, self.values(rng, args[1].shape[1:])), {}

    def forward(self, xp: Xp, z: Array, h0: Array, u: Array, b: Array) -> Array:
        self.check(u, z, h0, u, b)
        if xp is np and (fast := recurrent.gru(z, h0, u, b)) is not None:
            return fast
        y = states(xp, (len(z) + 1, *h0.shape), z, h0, u, b)
        y[0] = h0
        for k in range(z.shape[0]):
            _, w, m, _ = gru_gates(z[k], y[k] @ u, b)
            y[k + 1] = m + w * (y[k] - m)
        return y

    def backward(self, g: Value, y: Value, z: Value, h0: Value, u: Value, b: Value) -> Rules:
        d, n = self.gradients_of(gru_grad, g, y, z, u, b), u.shape[0]
        dz = d[:-1]
        return (
            lambda: concatenate([dz[..., : 2 * n], dz[..., 3 * n :]], -1),
            lambda: d[-1][:, :n],
            lambda: rows(y[:-1]).T @ rows(dz[..., : 3 * n]),
            lambda: rows(dz[..., 2 * n : 3 * n]).sum(0),
        )

    def jvp(self, y: Value, z: Value, h0: Value, u: Value, b: Value) -> Tangents:
        def tangent(tz: Value, th0: Value, tu: Value, tb: Value) -> Value:
            n = u.shape[0]
            r, w, m, q = gru_gates(z, matmul(y[:-1], u), b)
            th = y[0] * 0 if th0 is None else th0
            tangents = [th]
            for k in range(z.shape[0]):
                ta = add_up(th @ u, tu if tu is None else y[k] @ tu)
                gate_tangents = add_up(ta[:, : 2 * n], tz if tz is None else tz[k, :, : 2 * n])
                tr, tw = gate_tangents[:, :n] * (r[k] * (1 - r[k])), gate_tangents[:, n:] * (w[k] * (1 - w[k]))
                tm = tr * q[k] + r[k] * add_up(ta[:, 2 * n :], tb)
                tm = add_up(tm, tz if tz is None else tz[k, :, 2 * n :]) * (1 - m[k] * m[k])
                th = tm + tw * (y[k] - m[k]) + w[k] * (th - tm)
                tangents.append(th)
            return stack(tangents)

        return tangent


class GruGrad(Op):
    """The gradients of `gru` for all steps; d (t+1,n,4h), from g (t+1,n,h), y (t+1,n,h), z (t,n,3h), U (h,3h), b (h).

    forward    d = (dr, dw, dq, dm) of `gru` for the steps, in order;   last (gh0, 0, 0, 0)
    """

    name, signature = "gru_grad", "(s,n,h),(s,n,h),(t,n,k),(h,k),(h)->(...)"

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        (z, h0, u, b), _ = gru.sample(rng, sizes)
        y = gru(z, h0, u, b)
        return (self.values(rng, y.shape), y, z, u, b), {}

    def forward(self, xp: Xp, g: Array, y: Array, z: Array, u: Array, b: Array) -> Array:
        fast = recurrent.gru_grad(g, y, z, u, b) if xp is np else None
        return self.through_time(g, y, z, u, b) if fast is None else fast

    def through_time(self, g: Value, y: Value, z: Value, u: Value, b: Value) -> Value:
        n = u.shape[0]
        r, w, m, q = gru_gates(z, matmul(y[:-1], u), b)
        factor_m, factor_w, factor_r = (1 - w) * (1 - m * m), (y[:-1] - m) * w * (1 - w), q * r * (1 - r)
        dh, gradients = g[-1], []
        for k in reversed(range(z.shape[0])):
            dm = dh * factor_m[k]
            hidden = concatenate([dm * factor_r[k], dh * factor_w[k], dm * r[k]], -1)
            gradients.append(concatenate([hidden, dm], -1))
            dh = g[k] + dh * w[k] + hidden @ u.T
        return stack([*reversed(gradients), pad(dh, ((0, 0), (0, 3 * n)))])


class Inside(Op):
    """A mask of the steps within each sequence, for sequences of different lengths. No gradient.

    forward    y[i,k] = [k < lengths[i]]                       lengths (...) integers in 0 .. steps, to y (..., steps)
    """

    name, signature = "inside", "()->(t)"
    rowwise = True

    def __call__(self, lengths: Operand[T], steps: int) -> T | Array:
        return self.apply(lengths, steps=steps)

    def sample(self, rng: np.random.Generator, sizes: Sequence[int] = (1, 2, 3)) -> Sample:
        return (rng.integers(0, 5, self.parsed.shapes(rng, sizes)[0]),), {"steps": 4}

    def forward(self, xp: Xp, lengths: Array, *, steps: int) -> Array:
        if on_gpu(lengths):
            check((lengths < 0) | (lengths > steps), f"{scoped('lengths')}: one is out of range, expected 0 .. {steps}")
        elif lengths.size and not (lengths.min() >= 0 and lengths.max() <= steps):
            raise LabelError(f"{scoped('lengths')}: expected 0 .. {steps}, got {lengths.min()} .. {lengths.max()}")
        return xp.arange(steps) < lengths[..., None]


def states(xp: Xp, shape: Shape, *args: Array) -> Array:
    """Memory for the states computed from these."""
    return xp.empty(shape, xp.result_type(*args))


def gates(a: Value, n: int) -> tuple[Value, ...]:
    """The gates i, f, m, o of an LSTM from their arguments, (...,4n)."""
    i, f, m, o = (a[..., k * n : (k + 1) * n] for k in range(4))
    return sigmoid(i), sigmoid(f), tanh(m), sigmoid(o)


def gru_gates(z: Value, a: Value, b: Value) -> tuple[Value, ...]:
    """r, w, m and q of a GRU from z and a = h U, (...,3n)."""
    n = b.shape[0]
    r, w = (sigmoid(z[..., k * n : (k + 1) * n] + a[..., k * n : (k + 1) * n]) for k in range(2))
    q = a[..., 2 * n :] + b
    return r, w, tanh(z[..., 2 * n :] + r * q), q


def add_up(first: Value, *others: Value | None) -> Value:
    """The sum, None being 0."""
    for other in others:
        first = first if other is None else first + other
    return first


rnn, rnn_grad = Rnn(), RnnGrad()
lstm, lstm_grad = Lstm(), LstmGrad()
gru, gru_grad = Gru(), GruGrad()
inside = Inside()
