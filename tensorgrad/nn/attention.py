"""Multi-head attention and transformer layers."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import numpy as np

from tensorgrad import ops
from tensorgrad.core.backend import DEFAULT_FLOAT
from tensorgrad.core.tensor import raw
from tensorgrad.errors import ArgumentError, DTypeError, ShapeError
from tensorgrad.nn import functional as F
from tensorgrad.nn import init
from tensorgrad.nn.arguments import as_floating, describe, flag, generator, integer, one_of, real
from tensorgrad.nn.containers import ModuleList
from tensorgrad.nn.layers import Dropout, Linear
from tensorgrad.nn.module import Module, Parameter
from tensorgrad.nn.normalisation import LayerNorm
from tensorgrad.ops.attention import attention_weights, lists_as_array
from tensorgrad.ops.linalg import as_operand

__all__ = [
    "MultiheadAttention", "TransformerDecoder", "TransformerDecoderLayer", "TransformerEncoder", "TransformerEncoderLayer",
]  # fmt: skip


class MultiheadAttention(Module):
    """Attention in num_heads heads, each with embed_dim / num_heads dimensions (Vaswani et al. 2017).

    Call it like PyTorch's, with (query, key, value, key_padding_mask=None, need_weights=True, attn_mask=None,
    average_attn_weights=True, is_causal=False); returns (output, weights):

    query, key, value   (l, n, embed_dim), (s, n, embed_dim) twice; with batch_first n comes first; n may be missing
    key_padding_mask    (n, s), True for keys to ignore; or numbers to add to the scores
    attn_mask           (l, s) or (n num_heads, l, s), True where a query may NOT attend to a key: the opposite of
                        F.scaled_dot_product_attention, as in PyTorch; or numbers to add to the scores
    is_causal           True if query i may attend to keys 0 .. i only; needs no attn_mask
    need_weights        False returns None for the weights; the operation then never holds all (l, s) weights at once
    output              shaped like query;  weights (n, l, s), the mean over heads, or (n, num_heads, l, s)

    For a query that may attend to no key, the heads are 0, not NaN, and the output is the bias of out_proj.

    dropout   probability of dropping an attention weight in training
    bias      False for no biases
    rng       NumPy generator for the initial values; by default the one that nn.init.seed seeds

    Parameters have PyTorch's names: in_proj_weight (here (embed_dim, 3 embed_dim)), in_proj_bias, out_proj.weight,
    out_proj.bias.
    """

    transposed_in_torch = ("in_proj_weight",)
    in_proj_bias: Parameter | None

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        batch_first: bool = False,
        *,
        rng: np.random.Generator | None = None,
        dtype: np.typing.DTypeLike = DEFAULT_FLOAT,
    ) -> None:
        super().__init__()
        caller = type(self).__name__
        self.embed_dim, self.num_heads = integer(caller, "embed_dim", embed_dim, 1), integer(caller, "num_heads", num_heads, 1)
        if self.embed_dim % self.num_heads:
            raise ArgumentError(f"{caller}: num_heads must divide embed_dim, got {self.num_heads} and {self.embed_dim}")
        self.dropout, bias = real(caller, "dropout", dropout, 0, 1), flag(caller, "bias", bias)
        self.batch_first, dtype = flag(caller, "batch_first", batch_first), as_floating(caller, dtype)
        rng = generator(caller, rng) or init.generator()
        a = (6 / (4 * self.embed_dim)) ** 0.5  # Glorot's bound for a matrix (e, 3 e)
        width = 3 * self.embed_dim
        self.in_proj_weight = Parameter(rng.uniform(-a, a, (self.embed_dim, width)), dtype=dtype)
        self.register_parameter("in_proj_bias", Parameter(np.zeros(width), dtype=dtype) if bias else None)
        bias_init = init.zeros() if bias else None
        self.out_proj = Linear(self.embed_dim, self.embed_dim, bias, bias_init=bias_init, rng=rng, dtype=dtype)

    def forward(
        self,
        query: Any,
        key: Any,
        value: Any,
        key_padding_mask: Any = None,
        need_weights: bool = True,
        attn_mask: Any = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> Any:
        caller, e = type(self).__name__, self.embed_dim
        xs: list[Any] = [as_operand(caller, x) for x in (query, key, value)]
        for name, x in zip(("query", "key", "value"), xs, strict=True):
            if x.ndim not in (2, 3) or x.ndim != xs[0].ndim or x.shape[-1] != e:
                kinds = "(n, l, embed_dim)" if self.batch_first else "(l, n, embed_dim)"
                raise ShapeError(f"{caller}: {name} has shape {x.shape}, expected {kinds}, or without n, embed_dim being {e}")
        q, k, v = xs
        at = 0 if self.batch_first else 1  # axis of n
        if k.shape[:-1] != v.shape[:-1] or (q.ndim == 3 and q.shape[at] != k.shape[at]):
            raise ShapeError(
                f"{caller}: query {q.shape}, key {k.shape} and value {v.shape} are incompatible; expected as many values as "
                f"keys, and the same number of sequences"
            )
        is_causal, need_weights = flag(caller, "is_causal", is_causal), flag(caller, "need_weights", need_weights)
        is_single, is_same = xs[0].ndim == 2, query is key is value
        xs = [ops.expand_dims(x, 0) if is_single else x if self.batch_first else x.swapaxes(0, 1) for x in xs]
        q, k, v = (self.heads(x) for x in self.projected(xs, is_same))
        mask = self.mask(key_padding_mask, attn_mask, q, k.shape[-2])
        p = self.dropout if self.training else 0.0
        if need_weights:
            w = attention_weights(q, k, mask, causal=is_causal)
            y, w = F.dropout(w, p, self.training) @ v, w.mean(1) if average_attn_weights else w
        else:
            y, w = F.scaled_dot_product_attention(q, k, v, mask, p, is_causal), None
        y = self.out_proj(y.swapaxes(1, 2).reshape((*xs[0].shape[:2], e)))
        if is_single:
            return y[0], (w if w is None else w[0])
        return (y if self.batch_first else y.swapaxes(0, 1)), w

    def projected(self, xs: list[Any], is_same: bool) -> list[Any]:
        """Queries, keys and values, each (n, l, embed_dim): by one product if they have the same input."""
        e, w, b = self.embed_dim, self.in_proj_weight, self.in_proj_bias
        if is_same:
            z = xs[0] @ w if b is None else ops.linear(xs[0], w, b)
            return [z[..., i * e : (i + 1) * e] for i in range(3)]
        projections = []
        for i, x in enumerate(xs):
            part = slice(i * e, (i + 1) * e)
            projections.append(x @ w[:, part] if b is None else ops.linear(x, w[:, part], b[part]))
        return projections

    def heads(self, x: Any) -> Any:
        """Reshape (n, l, embed_dim) to (n, num_heads, l, embed_dim / num_heads)."""
        return x.reshape((*x.shape[:2], self.num_heads, self.embed_dim // self.num_heads)).swapaxes(1, 2)

    def mask(self, padding: Any, attn: Any, q: Any, keys: int) -> Any:
        """Both masks as one for scores (n, num_heads, queries, keys), True where a query may attend to a key; None if there
        is none.
        """
        n, _, queries, _ = q.shape
        parts = []
        shapes: dict[str, dict[tuple[int, ...], tuple[int, ...]]] = {
            "key_padding_mask": {(n, keys): (n, 1, 1, keys)},
            "attn_mask": {
                (queries, keys): (queries, keys),
                (n * self.num_heads, queries, keys): (n, self.num_heads, queries, keys),
            },
        }
        for (name, allowed), mask in zip(shapes.items(), (padding, attn), strict=True):
            if mask is None:
                continue
            mask = as_operand(type(self).__name__, lists_as_array(mask, q))
            if name == "key_padding_mask" and mask.ndim == 1 and n == 1:
                mask = mask.reshape((1, -1))
            if mask.shape not in allowed:
                expected = " or ".join(map(str, allowed))
                raise ShapeError(f"{type(self).__name__}: {name} has shape {mask.shape}, expected {expected}")
            if raw(mask).dtype.kind not in "bf":
                raise DTypeError(f"{type(self).__name__}: {name} must have a boolean or floating dtype, got {mask.dtype}")
            parts.append(mask.reshape(allowed[mask.shape]))
        if not parts:
            return None
        if all(part.dtype == bool for part in parts):
            return ops.logical_not(parts[0] if len(parts) == 1 else ops.where(parts[0], True, parts[1]))
        additive = [ops.where(part, -np.inf, 0.0) if part.dtype == bool else part for part in parts]
        return additive[0] if len(additive) == 1 else additive[0] + additive[1]

    def extra_repr(self) -> str:
        settings = {"dropout": self.dropout, "bias": self.in_proj_bias is not None, "batch_first": self.batch_first}
        defaults = {"dropout": 0.0, "bias": True, "batch_first": False}
        changed = [f"{name}={value}" for name, value in settings.items() if value != defaults[name]]
        return ", ".join([f"{self.embed_dim}, {self.num_heads}", *changed])


class TransformerLayer(Module):
    """Base of encoder and decoder layers: residual connections and norms around each part."""

    parts: ClassVar[int] = 2

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str = "relu",
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        *,
        rng: np.random.Generator | None = None,
        dtype: np.typing.DTypeLike = DEFAULT_FLOAT,
    ) -> None:
        super().__init__()
        caller = type(self).__name__
        d_model, nhead = integer(caller, "d_model", d_model, 1), integer(caller, "nhead", nhead, 1)
        if d_model % nhead:
            raise ArgumentError(f"{caller}: nhead must divide d_model, got {nhead} and {d_model}")
        width, p, eps = (
            integer(caller, "dim_feedforward", dim_feedforward),
            real(caller, "dropout", dropout, 0, 1),
            layer_norm_eps,
        )
        eps, batch_first = real(caller, "layer_norm_eps", eps, 0), flag(caller, "batch_first", batch_first)
        self.activation = one_of(caller, "activation", activation, ("relu", "gelu"))
        self.norm_first, dtype = flag(caller, "norm_first", norm_first), as_floating(caller, dtype)
        rng = generator(caller, rng) or init.generator()
        self.self_attn = MultiheadAttention(d_model, nhead, p, batch_first=batch_first, rng=rng, dtype=dtype)
        if self.parts == 3:
            self.multihead_attn = MultiheadAttention(d_model, nhead, p, batch_first=batch_first, rng=rng, dtype=dtype)
        self.linear1 = Linear(d_model, width, rng=rng, dtype=dtype)
        self.dropout = Dropout(p)
        self.linear2 = Linear(width, d_model, rng=rng, dtype=dtype)
        for k in range(1, self.parts + 1):
            setattr(self, f"norm{k}", LayerNorm(d_model, eps, dtype=dtype))
            setattr(self, f"dropout{k}", Dropout(p))

    def residual(self, x: Any, k: int, part: Any) -> Any:
        """x plus part k of x, normalised before or after."""
        norm, dropout = getattr(self, f"norm{k}"), getattr(self, f"dropout{k}")
        return x + dropout(part(norm(x))) if self.norm_first else norm(x + dropout(part(x)))

    def feed_forward(self, x: Any) -> Any:
        h = self.linear1(x)
        return self.linear2(self.dropout(ops.relu(h) if self.activation == "relu" else F.gelu(h)))

    def extra_repr(self) -> str:
        return f"activation={self.activation!r}, norm_first={self.norm_first}"


class TransformerEncoderLayer(TransformerLayer):
    """Self-attention, then two linear layers at each position, each with a residual connection and a norm:
    x = norm1(x + attention(x)), x = norm2(x + linear2(act(linear1(x)))).

    Call with (src, src_mask=None, src_key_padding_mask=None, is_causal=False); src and the result have shape (s, n, d_model);
    with batch_first n comes first. Masks are those of nn.MultiheadAttention.

    nhead             number of heads, a divisor of d_model
    dim_feedforward   the width between the two linear layers
    dropout           probability of dropping an element in training: of attention weights, between the linear layers, and of
                      each residual branch
    activation        "relu" or "gelu"
    layer_norm_eps    eps of the norms
    norm_first        True to normalise the input of each part instead: x = x + attention(norm1(x)), ...
    rng               NumPy generator for the initial values; by default the one that nn.init.seed seeds

    Parameters have PyTorch's names.
    """

    def forward(self, src: Any, src_mask: Any = None, src_key_padding_mask: Any = None, is_causal: bool = False) -> Any:
        def attention(x: Any) -> Any:
            return self.self_attn(x, x, x, src_key_padding_mask, False, src_mask, True, is_causal)[0]

        return self.residual(self.residual(src, 1, attention), 2, self.feed_forward)


class TransformerDecoderLayer(TransformerLayer):
    """nn.TransformerEncoderLayer with attention to a second sequence, the memory, in between.

    Call with (tgt, memory, tgt_mask=None, memory_mask=None, tgt_key_padding_mask=None, memory_key_padding_mask=None,
    tgt_is_causal=False, memory_is_causal=False); the result has the shape of tgt. Constructor arguments are those of
    TransformerEncoderLayer.
    """

    parts = 3

    def forward(
        self,
        tgt: Any,
        memory: Any,
        tgt_mask: Any = None,
        memory_mask: Any = None,
        tgt_key_padding_mask: Any = None,
        memory_key_padding_mask: Any = None,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
    ) -> Any:
        def to_itself(x: Any) -> Any:
            return self.self_attn(x, x, x, tgt_key_padding_mask, False, tgt_mask, True, tgt_is_causal)[0]

        def to_memory(x: Any) -> Any:
            masks = (memory_key_padding_mask, False, memory_mask, True, memory_is_causal)
            return self.multihead_attn(x, memory, memory, *masks)[0]

        return self.residual(self.residual(self.residual(tgt, 1, to_itself), 2, to_memory), 3, self.feed_forward)


class Stack(Module):
    """Copies of a layer, applied one after the other."""

    def __init__(self, name: str, layer: Module, num_layers: int, norm: Module | None) -> None:
        super().__init__()
        caller = type(self).__name__
        for argument, part in ((name, layer), ("norm", norm)):
            if not isinstance(part, Module) and not (part is None and argument == "norm"):
                raise ArgumentError(f"{caller}: {argument} must be a module, got {describe(part)}")
        self.layers = ModuleList(copy.deepcopy(layer) for _ in range(integer(caller, "num_layers", num_layers)))
        self.norm = norm

    def apply_layers(self, x: Any, *others: Any) -> Any:
        for layer in self.layers:
            x = layer(x, *others)
        return x if self.norm is None else self.norm(x)


class TransformerEncoder(Stack):
    """num_layers copies of an nn.TransformerEncoderLayer, one after the other, followed by `norm` if given.

    Call with (src, mask=None, src_key_padding_mask=None, is_causal=False), which are passed to each layer. As in PyTorch, all
    copies start with the same weights.
    """

    def __init__(self, encoder_layer: Module, num_layers: int, norm: Module | None = None) -> None:
        super().__init__("encoder_layer", encoder_layer, num_layers, norm)

    def forward(self, src: Any, mask: Any = None, src_key_padding_mask: Any = None, is_causal: bool = False) -> Any:
        return self.apply_layers(src, mask, src_key_padding_mask, is_causal)


class TransformerDecoder(Stack):
    """num_layers copies of an nn.TransformerDecoderLayer, one after the other, followed by `norm` if given.

    Call it like a layer: (tgt, memory, tgt_mask=None, memory_mask=None, tgt_key_padding_mask=None,
    memory_key_padding_mask=None, tgt_is_causal=False, memory_is_causal=False).
    """

    def __init__(self, decoder_layer: Module, num_layers: int, norm: Module | None = None) -> None:
        super().__init__("decoder_layer", decoder_layer, num_layers, norm)

    def forward(
        self,
        tgt: Any,
        memory: Any,
        tgt_mask: Any = None,
        memory_mask: Any = None,
        tgt_key_padding_mask: Any = None,
        memory_key_padding_mask: Any = None,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
    ) -> Any:
        masks = (tgt_mask, memory_mask, tgt_key_padding_mask, memory_key_padding_mask)
        return self.apply_layers(tgt, memory, *masks, tgt_is_causal, memory_is_causal)
