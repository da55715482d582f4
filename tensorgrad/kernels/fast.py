"""Fused kernels other than chains, as loops for Numba. Importing this module imports Numba."""

from __future__ import annotations

import math
from math import exp, log
from typing import Any

import numpy as np
from numba import types
from numba.extending import overload, register_jitable

from tensorgrad.kernels import erf as reference


def exp_of_negative(x: Any) -> Any:
    """e^x for x <= 0, by arithmetic that LLVM can vectorise, unlike a call to the C library.

    x = n ln 2 + r with an integer n and |r| <= ln 2 / 2, so e^x = 2^n e^r: the Taylor series of e^r, and n put into the
    exponent (W. J. Cody, W. Waite, Software Manual for the Elementary Functions, 1980; their ln 2 in two parts, so that n times
    the first is exact). Within 1.2 units in the last place; 0 where e^x would be subnormal.
    """
    return np.exp(x)


@overload(exp_of_negative)
def compiled_exp_of_negative(x: Any) -> Any:
    """For the dtype of x."""
    single = x == types.float32
    real: Any = np.float32 if single else np.float64
    bits: Any = np.int32 if single else np.int64
    mantissa, bias, terms = (23, 127, 7) if single else (52, 1023, 13)
    log2e, high = real(1 / math.log(2)), real(0.693359375)  # 355 / 512
    low = real(-2.12194440054690582767e-4)  # ln 2 - high
    lowest = real(np.log(np.finfo(real).tiny))
    to_whole = real(1.5 * 2.0**mantissa)  # adding it leaves an integer in the last bits, in two's complement
    series = tuple([real(1 / math.factorial(k)) for k in range(terms, -1, -1)])
    zero = real(0)

    def compute(x: Any) -> Any:
        shifted = real(x * log2e + to_whole)
        n = shifted - to_whole
        r = (x - n * high) - n * low
        e = zero
        for c in series:
            e = e * r + c
        power = bits((real(shifted).view(bits) + bias) << mantissa).view(real)
        return zero if x < lowest else e * power

    return compute


def exp_of_any(x: Any) -> Any:
    """e^x by the arithmetic of exp_of_negative, but with 2^n multiplied in two parts, both normal numbers, so that the result
    overflows to infinity and underflows to subnormal numbers and 0."""
    return np.exp(x)


@overload(exp_of_any)
def compiled_exp_of_any(x: Any) -> Any:
    """For the dtype of x."""
    single = x == types.float32
    real: Any = np.float32 if single else np.float64
    bits: Any = np.int32 if single else np.int64
    mantissa, bias, terms, far = (23, 127, 7, 150.0) if single else (52, 1023, 13, 1400.0)
    log2e, high, low = real(1 / math.log(2)), real(0.693359375), real(-2.12194440054690582767e-4)
    to_whole, limit = real(1.5 * 2.0**mantissa), real(far)  # beyond, the result is 0 or infinite
    of_bits = bits(np.asarray(to_whole).view(bits))
    series = tuple([real(1 / math.factorial(k)) for k in range(terms, -1, -1)])
    zero = real(0)

    def compute(x: Any) -> Any:
        x = x if x <= limit or x != x else limit
        x = x if x >= -limit or x != x else -limit
        shifted = real(x * log2e + to_whole)
        n = shifted - to_whole
        r = (x - n * high) - n * low
        e = zero
        for c in series:
            e = e * r + c
        whole = real(shifted).view(bits) - of_bits
        half = whole >> bits(1)
        first = bits((half + bits(bias)) << bits(mantissa)).view(real)
        second = bits((whole - half + bits(bias)) << bits(mantissa)).view(real)
        return e * first * second

    return compute


def softplus(x: Any) -> Any:
    """log(1 + e^x) = max(x, 0) + log(1 + e), e = e^-|x|; log(1 + e) = 2 artanh(s), s = e / (2 + e) <= 1/3, by its series."""
    return np.logaddexp(x, 0)


@overload(softplus)
def compiled_softplus(x: Any) -> Any:
    """For the dtype of x."""
    single = x == types.float32
    real: Any = np.float32 if single else np.float64
    series = tuple([real(2 / (2 * k + 1)) for k in range(7 if single else 17, -1, -1)])
    zero, two = real(0), real(2)

    def compute(x: Any) -> Any:
        e = exp_of_any(-abs(x))
        s = e / (two + e)
        square = s * s
        y = zero
        for c in series:
            y = y * square + c
        return s * y + (x if x > zero else zero)

    return compute


def erf(x: Any) -> Any:
    """As reference.erf."""
    return reference.erf(x)


@overload(erf)
def compiled_erf(x: Any) -> Any:
    """For the dtype of x."""
    single = x == types.float32
    real: Any = np.float32 if single else np.float64
    names = ("ERF_SHORT", "ERFC_SHORT") if single else ("ERF_P", "ERF_Q", "ERFC_P", "ERFC_Q")
    series = [tuple(map(real, getattr(reference, name))) for name in names]
    of_inner, of_outer = series[0], series[-1]
    below_inner, above_outer = series[1], series[-2]  # only in float64
    seam, limit, zero, one = real(0.75 if single else 0.5), real(6), real(0), real(1)

    def in_single(x: Any) -> Any:
        x = x if x <= limit or x != x else limit
        x = x if x >= -limit or x != x else -limit
        a, square = abs(x), x * x
        inner = outer = zero
        for c in of_inner:
            inner = inner * square + c
        for c in of_outer:
            outer = outer * a + c
        outer = one - exp_of_negative(-square) / outer
        inner = x * inner
        outer = -outer if x < zero else outer
        return inner if a < seam else outer

    def in_double(x: Any) -> Any:
        x = x if x <= limit or x != x else limit
        x = x if x >= -limit or x != x else -limit
        a, square = abs(x), x * x
        inner = below = above = outer = zero
        for c in of_inner:
            inner = inner * square + c
        for c in below_inner:
            below = below * square + c
        for c in above_outer:
            above = above * a + c
        for c in of_outer:
            outer = outer * a + c
        outer = one - exp_of_negative(-square) * (above / outer)
        inner = x * (inner / below)
        outer = -outer if x < zero else outer
        return inner if a < seam else outer

    return in_single if single else in_double


def softmax_cross_entropy(z: Any, t: Any, g: Any, samples: Any, loss: Any, dz: Any) -> Any:
    """As reference.softmax_cross_entropy; returns the row of a label that is out of range instead of raising, else -1."""
    rows, classes = z.shape
    total = 0.0
    for i in range(rows):
        label, first = t[i], i * classes
        if label < 0 or label >= classes:
            return i
        top = z[i, 0]
        for k in range(classes):
            if z[i, k] > top or z[i, k] != z[i, k]:
                top = z[i, k]
        for k in range(classes):
            dz[first + k] = z[i, k] - top
        total -= dz[first + label]
    for j in range(len(dz)):
        dz[j] = exp_of_negative(dz[j])
    factor = g[()] / z.dtype.type(samples)
    for i in range(rows):
        first = i * classes
        mass = z.dtype.type(0)
        for k in range(classes):
            mass += dz[first + k]
        total += log(mass)
        share = factor / mass
        for k in range(classes):
            dz[first + k] *= share
        dz[first + t[i]] -= factor
    loss[()] = total / samples
    return -1


def middle_sum(x: Any, y: Any) -> None:
    """y (n,k) = sum over the middle axis of x (n,m,k), row by row in NumPy's order."""
    count, rows, width = x.shape
    for i in range(count):
        for k in range(width):
            y[i, k] = x[i, 0, k]
        for j in range(1, rows):
            for k in range(width):
                y[i, k] += x[i, j, k]


def add_middle(x: Any, y: Any, out: Any) -> None:
    """out = x + y of x (n,m,k) and y (n,1,k); out may be x."""
    count, rows, width = x.shape
    for i in range(count):
        for j in range(rows):
            for k in range(width):
                out[i, j, k] = x[i, j, k] + y[i, 0, k]


def log_softmax(z: Any, y: Any) -> None:
    """y = z - log sum e^z, row by row; a row with a NaN becomes NaN."""
    rows, classes = z.shape
    for i in range(rows):
        top = z[i, 0]
        for k in range(classes):
            if z[i, k] > top or z[i, k] != z[i, k]:
                top = z[i, k]
        mass = z.dtype.type(0)
        for k in range(classes):
            mass += exp(z[i, k] - top)
        shift = log(mass)
        for k in range(classes):
            y[i, k] = (z[i, k] - top) - shift


def softmax_of_seen(z: Any, start: Any, queries: Any, causal: Any) -> None:
    """As attention.softmax_of_seen, query by query."""
    rows, keys = z.shape
    zero, one = z.dtype.type(0), z.dtype.type(1)
    for i in range(rows):
        seen = min(start + i % queries + 1, keys) if causal else keys
        row = z[i, :seen]
        top = row[0]
        for k in range(seen):
            if row[k] > top or row[k] != row[k]:
                top = row[k]
        for k in range(seen):
            row[k] = exp_of_negative(row[k] - top)
        mass = zero
        for k in range(seen):
            mass += row[k]
        share = one / mass
        for k in range(seen):
            row[k] *= share
        for k in range(seen, keys):
            z[i, k] = zero


def softmax_grad(p: Any, dp: Any) -> None:
    """As attention.softmax_grad."""
    rows, keys = p.shape
    for i in range(rows):
        share, slope = p[i], dp[i]
        total = p.dtype.type(0)
        for k in range(keys):
            total += share[k] * slope[k]
        for k in range(keys):
            slope[k] = share[k] * (slope[k] - total)


def cross_entropy_grad(logp: Any, t: Any, factor: Any, dz: Any) -> Any:
    """dz = factor (e^logp - one_hot(t)); returns -1 or, without writing dz, the position of the first invalid label.

    logp and dz (m * k), row-major;  t (m);  factor ()
    """
    classes = len(dz) // len(t)
    for i in range(len(t)):
        if t[i] < 0 or t[i] >= classes:
            return i
    scale = factor[()]
    for j in range(len(dz)):
        dz[j] = exp_of_negative(logp[j]) * scale
    for i in range(len(t)):
        dz[i * classes + t[i]] -= scale
    return -1


@register_jitable
def sigmoid(x: Any) -> Any:
    """1 / (1 + e^-x), computed from e^-|x|, so that both tails are accurate."""
    one = type(x)(1)
    e = exp_of_negative(-abs(x))
    return (e if x < 0 else one) / (one + e)


@register_jitable
def tanh(x: Any) -> Any:
    """tanh x: (1 - e^-2|x|) / (1 + e^-2|x|), and below ln(3) / 2, where that would cancel, x + x x² P(x²) / Q(x²).

    P and Q are Cody and Waite's for a mantissa of 53 bits (Software Manual for the Elementary Functions, 1980, chapter 13).
    """
    real = type(x)
    e = exp_of_negative(real(-2) * abs(x))
    s = x * x
    p = (real(-0.96437492777225469787) * s + real(-99.225929672236083313)) * s + real(-1613.4119023996228053)
    q = ((s + real(112.74474380534949335)) * s + real(2233.7720718962312926)) * s + real(4840.2357071988688686)
    is_near = abs(x) < real(0.54930614433405484570)
    far = e - real(1) if x < 0 else real(1) - e
    return (x * (q + s * p) if is_near else far) / (q if is_near else real(1) + e)


@register_jitable
def sigmoid_of_sum(x: Any, y: Any) -> None:
    """x = sigmoid(x + y)"""
    for j in range(len(x)):
        x[j] = sigmoid(x[j] + y[j])


@register_jitable
def tanh_of_sum(x: Any, y: Any) -> None:
    """x = tanh(x + y)"""
    for j in range(len(x)):
        x[j] = tanh(x[j] + y[j])


# The loops below are short, start at 0 and use few arrays each, so that LLVM vectorises them: before each loop it has to check
# that the written array does not overlap the others


def lstm_step(a: Any, z: Any, c: Any, h_next: Any, c_next: Any) -> None:
    """One step: the gates of a + z, then c' = f c + i m and h' = o tanh c'; a (n,4h) = h U is overwritten."""
    n, wide = a.shape
    h = wide // 4
    for r in range(n):
        i, f, m, o = a[r, :h], a[r, h : 2 * h], a[r, 2 * h : 3 * h], a[r, 3 * h :]
        sigmoid_of_sum(a[r, : 2 * h], z[r, : 2 * h])
        tanh_of_sum(m, z[r, 2 * h : 3 * h])
        sigmoid_of_sum(o, z[r, 3 * h :])
        old, new, out = c[r], c_next[r], h_next[r]
        for j in range(h):
            new[j] = f[j] * old[j] + i[j] * m[j]
        for j in range(h):
            out[j] = o[j] * tanh(new[j])


def lstm_slopes(a: Any, z: Any, c: Any, c_next: Any, of_c: Any, forget: Any) -> None:
    """The factors of the gates' gradients, computed in place of a = h U, for rows of any steps.

    a becomes (m i (1 - i), c f (1 - f), i (1 - m²)) of dc, and tanh(c') o (1 - o) of dh;  of_c  o (1 - tanh² c') of dh in dc
    """
    n, wide = a.shape
    h = wide // 4
    one = a.dtype.type(1)
    for r in range(n):
        i, f, m, o = a[r, :h], a[r, h : 2 * h], a[r, 2 * h : 3 * h], a[r, 3 * h :]
        sigmoid_of_sum(a[r, : 2 * h], z[r, : 2 * h])
        tanh_of_sum(m, z[r, 2 * h : 3 * h])
        sigmoid_of_sum(o, z[r, 3 * h :])
        old, new, through, kept = c[r], c_next[r], of_c[r], forget[r]
        for j in range(h):
            of_i = m[j] * i[j] * (one - i[j])
            m[j] = i[j] * (one - m[j] * m[j])
            i[j] = of_i
        for j in range(h):
            kept[j] = f[j]
            f[j] = old[j] * f[j] * (one - f[j])
        for j in range(h):
            t = tanh(new[j])
            through[j] = o[j] * (one - t * t)
            o[j] = t * o[j] * (one - o[j])


def lstm_step_grad(d: Any, of_c: Any, forget: Any, gh: Any, gc: Any, dh: Any, dc: Any) -> None:
    """One step backwards: the factors in d (n,4h) become the gradients of the gates; dc (n,h) that of c, without its own gc.

    dh and dc come from the next step; gh and gc from other readers of h' and c'.
    """
    n, h = dh.shape
    for r in range(n):
        i, f, m, o = d[r, :h], d[r, h : 2 * h], d[r, 2 * h : 3 * h], d[r, 3 * h :]
        of_h, of_cell, through, kept, more, also = dh[r], dc[r], of_c[r], forget[r], gh[r], gc[r]
        for j in range(h):
            of_h[j] += more[j]
        for j in range(h):
            of_cell[j] += also[j] + of_h[j] * through[j]
        for j in range(h):
            i[j] *= of_cell[j]
            f[j] *= of_cell[j]
        for j in range(h):
            m[j] *= of_cell[j]
            o[j] *= of_h[j]
        for j in range(h):
            of_cell[j] *= kept[j]


def gru_step(a: Any, z: Any, b: Any, old: Any, new: Any) -> None:
    """One step: r, w = sigmoid(a + z), m = tanh(z + r (a + b)), h' = m + w (h - m); a (n,3h) = h U is overwritten."""
    n, wide = a.shape
    h = wide // 3
    for k in range(n):
        r, w, m, given = a[k, :h], a[k, h : 2 * h], a[k, 2 * h :], z[k, 2 * h :]
        sigmoid_of_sum(a[k, : 2 * h], z[k, : 2 * h])
        for j in range(h):
            m[j] = r[j] * (m[j] + b[j])
        tanh_of_sum(m, given)
        before, after = old[k], new[k]
        for j in range(h):
            after[j] = m[j] + w[j] * (before[j] - m[j])


def gru_slopes(a: Any, z: Any, b: Any, old: Any, keep: Any) -> None:
    """The factors of the gates' gradients, in place of a (n,4h), whose first 3h columns are h U, for rows of any steps.

    a becomes q r (1 - r) of dm, (h - m) w (1 - w) of dh, r of dm, and (1 - w) (1 - m²) of dh;  keep  w of dh past the gates
    """
    n, wide = a.shape
    h = wide // 4
    one = a.dtype.type(1)
    for k in range(n):
        r, w, q, m, given = a[k, :h], a[k, h : 2 * h], a[k, 2 * h : 3 * h], a[k, 3 * h :], z[k, 2 * h :]
        sigmoid_of_sum(a[k, : 2 * h], z[k, : 2 * h])
        for j in range(h):
            q[j] += b[j]
            m[j] = r[j] * q[j]
        tanh_of_sum(m, given)
        before, past = old[k], keep[k]
        for j in range(h):
            of_r = q[j] * r[j] * (one - r[j])
            q[j] = r[j]
            r[j] = of_r
        for j in range(h):
            past[j] = w[j]
            new = m[j]
            m[j] = (one - w[j]) * (one - new * new)
            w[j] = (before[j] - new) * w[j] * (one - w[j])


def gru_step_grad(d: Any, keep: Any, g: Any, dh: Any) -> None:
    """One step backwards: the factors in d (n,4h) become the gradients of r, w, q and m before their functions.

    dh (n,h) comes from the next step, g from other readers of h'; dh becomes the gradient of h on the path past the gates.
    """
    n, h = dh.shape
    for k in range(n):
        r, w, q, m = d[k, :h], d[k, h : 2 * h], d[k, 2 * h : 3 * h], d[k, 3 * h :]
        of_h, past, more = dh[k], keep[k], g[k]
        for j in range(h):
            of_h[j] += more[j]
        for j in range(h):
            m[j] *= of_h[j]
            w[j] *= of_h[j]
        for j in range(h):
            r[j] *= m[j]
            q[j] *= m[j]
        for j in range(h):
            of_h[j] *= past[j]


def add_rows(y: Any, t: Any, x: Any) -> Any:
    """y[t[i]] += x[i], one after the other; negative indices count from the end.

    Returns -1 or, without adding anything, the position of the first index that is out of range.
    """
    rows = len(y)
    for i in range(len(t)):
        if t[i] < -rows or t[i] >= rows:
            return i
    for i in range(len(t)):
        to, row = y[t[i]], x[i]
        for j in range(len(row)):
            to[j] += row[j]
    return -1


def take_rows(w: Any, t: Any, y: Any) -> Any:
    """y = w[t]; w (rows, k), t (n), y (n, k). Returns -1 or the position of the first index that is out of range."""
    rows, width = w.shape
    for i in range(len(t)):
        if t[i] < 0 or t[i] >= rows:
            return i
        for j in range(width):
            y[i, j] = w[t[i], j]
    return -1


def sum_rows(x: Any, t: Any, y: Any) -> Any:
    """y = 0, then y[t[i]] += x[i] in the order of t; negative indices count from the end. x (n, k), t (n), y (rows, k)

    Returns -1 or the position of the first index that is out of range.
    """
    rows, width = y.shape
    for i in range(rows):
        for j in range(width):
            y[i, j] = 0
    for i in range(len(t)):
        if t[i] < -rows or t[i] >= rows:
            return i
        at = t[i] if t[i] >= 0 else t[i] + rows
        for j in range(width):
            y[at, j] += x[i, j]
    return -1


def row_sum(x: Any, y: Any) -> None:
    """y (n) = sum over each row of x (n, k), by four partial sums that are added in pairs."""
    n, width = x.shape
    zero = x.dtype.type(0)
    even = width - width % 4
    for i in range(n):
        a, b, c, d = zero, zero, zero, zero
        for j in range(0, even, 4):
            a += x[i, j]
            b += x[i, j + 1]
            c += x[i, j + 2]
            d += x[i, j + 3]
        for j in range(even, width):
            a += x[i, j]
        y[i] = (a + b) + (c + d)


def windows(x: Any, y: Any, stride: Any, padding: Any, dilation: Any, start: Any, stop: Any) -> None:
    """As ops.windows, over two axes: x (n, c, h, w) to y (c, i, j, n, p, q), for images start to stop; the settings are for
    rows and columns."""
    _, c, h, w = x.shape
    rows, columns, places, across = y.shape[1], y.shape[2], y.shape[4], y.shape[5]
    zero = x.dtype.type(0)
    step = stride[1]
    for k in range(c):
        for i in range(rows):
            for j in range(columns):
                shift = dilation[1] * j - padding[1]
                first = min(max((step - 1 - shift) // step, 0), across)  # column `step first + shift` is the first inside x
                last = max(min((w - 1 - shift) // step + 1, across), first)
                for m in range(start, stop):
                    image, piece = x[m, k], y[k, i, j, m]
                    for p in range(places):
                        row = stride[0] * p + dilation[0] * i - padding[0]
                        if row < 0 or row >= h:
                            for q in range(across):
                                piece[p, q] = zero
                            continue
                        for q in range(first):
                            piece[p, q] = zero
                        if step == 1:  # a copy of contiguous memory
                            given, to = image[row, first + shift : last + shift], piece[p, first:last]
                            for q in range(last - first):
                                to[q] = given[q]
                        else:
                            for q in range(first, last):
                                y[k, i, j, m, p, q] = x[m, k, row, step * q + shift]
                        for q in range(last, across):
                            piece[p, q] = zero


def fold(x: Any, y: Any, stride: Any, padding: Any, dilation: Any, start: Any, stop: Any) -> None:
    """As ops.fold, over two axes: x (c, i, j, n, p, q) added to y (n, c, h, w), of images start to stop, in the order of the
    elements of a window."""
    _, c, h, w = y.shape
    rows, columns, places, across = x.shape[1], x.shape[2], x.shape[4], x.shape[5]
    step = stride[1]
    for k in range(c):
        for i in range(rows):
            for j in range(columns):
                shift = dilation[1] * j - padding[1]
                first = min(max((step - 1 - shift) // step, 0), across)
                last = max(min((w - 1 - shift) // step + 1, across), first)
                for m in range(start, stop):
                    image, piece = y[m, k], x[k, i, j, m]
                    for p in range(places):
                        row = stride[0] * p + dilation[0] * i - padding[0]
                        if row < 0 or row >= h:
                            continue
                        if step == 1:
                            given, to = piece[p, first:last], image[row, first + shift : last + shift]
                            for q in range(last - first):
                                to[q] += given[q]
                        else:
                            for q in range(first, last):
                                image[row, step * q + shift] += piece[p, q]
