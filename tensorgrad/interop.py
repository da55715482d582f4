"""Conversion of models from and to PyTorch; only this module imports PyTorch.

To exchange only parameters use a module's `load_state_dict(values, layout="torch")` and `state_dict(layout="torch")`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorgrad import nn
from tensorgrad.core.installation import missing
from tensorgrad.core.state import describe
from tensorgrad.errors import ArgumentError, ExportError, MissingDependencyError, TensorgradError
from tensorgrad.nn import init
from tensorgrad.nn.module import Module
from tensorgrad.nn.tied import TiedLinear
from tensorgrad.ops.random import preserve_generators

__all__ = ["from_torch", "to_torch"]

# A layer and its arguments: common names, or ours=PyTorch's. They are names of attributes, except for SPECIAL.
LAYERS = """
ReLU ReLU6 SELU Sigmoid Tanh SiLU Mish Identity Hardsigmoid Hardswish LogSigmoid Softsign Tanhshrink Softplus :
ELU CELU : alpha
GELU : approximate
LeakyReLU : negative_slope
Hardtanh : min_val max_val
Hardshrink Softshrink : lambd
Threshold : threshold value
PReLU : num_parameters
GLU Softmax LogSoftmax Softmin : axis=dim
CosineSimilarity : axis=dim eps
PairwiseDistance : p=norm eps keepdims=keepdim
Flatten : start_axis=start_dim end_axis=end_dim
Unflatten : axis=dim unflattened_size
Dropout Dropout1d Dropout2d AlphaDropout : p
Linear : in_features out_features bias
Conv1d Conv2d Conv3d : in_channels out_channels kernel_size stride padding dilation groups bias
ConvTranspose1d ConvTranspose2d ConvTranspose3d : in_channels out_channels kernel_size stride padding output_padding groups \
    bias dilation
MaxPool1d MaxPool2d MaxPool3d : kernel_size stride padding dilation ceil_mode
AvgPool1d AvgPool2d AvgPool3d : kernel_size stride padding ceil_mode count_include_pad
AdaptiveAvgPool1d AdaptiveAvgPool2d AdaptiveAvgPool3d AdaptiveMaxPool1d AdaptiveMaxPool2d AdaptiveMaxPool3d : output_size
ZeroPad1d ZeroPad2d ZeroPad3d ReflectionPad1d ReflectionPad2d ReflectionPad3d : padding
ReplicationPad1d ReplicationPad2d ReplicationPad3d CircularPad1d CircularPad2d CircularPad3d : padding
ConstantPad1d ConstantPad2d ConstantPad3d : padding value
PixelShuffle : upscale_factor
PixelUnshuffle : downscale_factor
Upsample : size scale_factor mode align_corners
Embedding : num_embeddings embedding_dim padding_idx
EmbeddingBag : num_embeddings embedding_dim mode padding_idx
BatchNorm1d BatchNorm2d BatchNorm3d : num_features eps momentum affine
InstanceNorm1d InstanceNorm2d InstanceNorm3d : num_features eps affine
GroupNorm : num_groups num_channels eps affine
LayerNorm RMSNorm : normalized_shape eps elementwise_affine
RNN : input_size hidden_size num_layers nonlinearity bias batch_first dropout bidirectional
LSTM GRU : input_size hidden_size num_layers bias batch_first dropout bidirectional
RNNCell : input_size hidden_size bias nonlinearity
LSTMCell GRUCell : input_size hidden_size bias
MultiheadAttention : embed_dim num_heads dropout bias batch_first
TransformerEncoderLayer TransformerDecoderLayer : d_model nhead dim_feedforward dropout activation layer_norm_eps batch_first \
    norm_first
"""


def table() -> dict[str, list[tuple[str, str]]]:
    """The arguments of each layer, as (ours, PyTorch's)."""
    arguments_of: dict[str, list[tuple[str, str]]] = {}
    for line in LAYERS.strip().replace("\\\n", "").splitlines():
        names, _, arguments = line.partition(":")
        pairs = [(a.partition("=")[0], a.partition("=")[2] or a) for a in arguments.split()]
        arguments_of |= dict.fromkeys(names.split(), pairs)
    return arguments_of


# of a transformer layer, as modules
ACTIVATIONS: dict[str, str] = {"ReLU()": "relu", "ReLU(inplace=True)": "relu", "GELU(approximate='none')": "gelu"}
SPECIAL: dict[str, Callable[[Any], Any]] = {  # arguments that neither stores as an attribute
    "affine": lambda m: m.weight is not None,
    "elementwise_affine": lambda m: m.weight is not None,
    "num_parameters": lambda m: int(np.prod(m.weight.shape)),
    "d_model": lambda m: m.self_attn.embed_dim,
    "nhead": lambda m: m.self_attn.num_heads,
    "dropout": lambda m: m.self_attn.dropout if hasattr(m, "self_attn") else m.dropout,
    "layer_norm_eps": lambda m: m.norm1.eps,
    "batch_first": lambda m: m.self_attn.batch_first if hasattr(m, "self_attn") else m.batch_first,
}
FROM_TENSORGRAD: dict[str, Callable[[Any], Any]] = {  # those that ours does not store
    "bias": lambda m: any("bias" in name for name in m._parameters),
    "in_features": lambda m: m.weight.shape[1 if isinstance(m, TiedLinear) else 0],
    "out_features": lambda m: m.weight.shape[0 if isinstance(m, TiedLinear) else 1],
    "kernel_size": lambda m: m.weight.shape[2:] if hasattr(m, "weight") else m.kernel_size,
    "num_embeddings": lambda m: m.weight.shape[0],
    "embedding_dim": lambda m: m.weight.shape[1],
    "num_features": lambda m: m.running_mean.shape[0] if isinstance(m, nn.BatchNorm1d) else m.num_features,
    "dim_feedforward": lambda m: m.linear1.weight.shape[1],
}
FROM_TORCH: dict[str, Callable[[Any], Any]] = {  # those that PyTorch's does not store
    "bias": lambda m: any("bias" in name for name, _ in m.named_parameters(recurse=False)),
    "dim_feedforward": lambda m: m.linear1.out_features,
    "activation": lambda m: getattr(m.activation, "__name__", None) or ACTIVATIONS.get(repr(m.activation), m.activation),
}
# Options of PyTorch's layers without a counterpart, and the value they must have
REQUIRED_OPTIONS = {
    "padding_mode": "zeros", "max_norm": None, "scale_grad_by_freq": False, "sparse": False, "include_last_offset": False,
    "return_indices": False, "divisor_override": None, "proj_size": 0, "add_zero_attn": False, "bias_k": None, "beta": 1,
    "_qkv_same_embed_dim": True,
}  # fmt: skip
DTYPES = ("float32", "float64", "float16", "bfloat16")
PART_CLASSES = {
    "attn": "MultiheadAttention",
    "linear": "Linear",
    "norm": "LayerNorm",
    "dropout": "Dropout",
}  # of a transformer layer
CONSTRUCTOR_ARGUMENTS = {
    "bias_k": "add_bias_kv=True",
    "_qkv_same_embed_dim": "kdim or vdim",
}  # the constructor arguments behind some of these
CONTAINERS = ("Sequential", "ModuleList", "ModuleDict")
STACKS = {"TransformerEncoder": nn.TransformerEncoder, "TransformerDecoder": nn.TransformerDecoder}


def is_container(name: str) -> bool:
    """Whether modules of this class are pure containers."""
    return name in CONTAINERS or name in STACKS


class Problems(dict[str, str]):
    """Path to the reason why a part cannot be converted."""

    def raise_all(self, where: str, hint: str) -> None:
        """Raise ExportError for all of them."""
        if self:
            listed = "; ".join(f"{path or 'the module'}: {problem}" for path, problem in self.items())
            raise ExportError(f"interop.{where}: no counterpart of {listed}{hint}")


def from_torch(module: Any) -> Module:
    """Convert a PyTorch module: the same layers, with copies of its parameters and buffers.

    module   a torch.nn.Sequential, ModuleList, ModuleDict, Transformer encoder or decoder, or one of its layers, nested to any
             depth. Parameters are copied to the CPU, in float32, float64 or float16; bfloat16 is converted to float32. Tied
             parameters stay tied, such as an embedding and the Linear after it; training mode and requires_grad are kept

    Raises ExportError, which lists every part without a counterpart, by path: your own classes, and layers with hooks or with
    options that are not supported. Rewrite such a class and load its parameters: model.load_state_dict(module.state_dict(),
    layout="torch").
    """
    torch = package("from_torch")
    if not isinstance(module, torch.nn.Module):
        raise ArgumentError(f"interop.from_torch: module must be a torch.nn.Module, got {describe(module)}")
    problems, counterparts = Problems(), dict[int, Any]()
    uses = torch_parameters(module)
    with preserve_generators([init.generator()]):
        converted = Conversion(torch, problems, counterparts, transposed_linears(uses, torch)).from_torch(module, "")
    hint = "; write it in tensorgrad, and load its parameters: model.load_state_dict(module.state_dict(), layout='torch')"
    problems.raise_all("from_torch", hint)
    tie(uses, counterparts)
    return converted  # type: ignore[no-any-return]


def to_torch(model: Module) -> Any:
    """Convert a module of this package to a torch.nn.Module: the inverse of `from_torch`, with the same rules.

    Results are equal up to rounding, also in training mode, except for the random numbers of dropout. A query that may attend
    to no key gives NaN in PyTorch, and 0 here.

    Raises ExportError, which lists every part without a counterpart, by path.
    """
    torch = package("to_torch")
    if not isinstance(model, Module):
        raise ArgumentError(f"interop.to_torch: model must be a module, got {describe(model)}")
    problems, counterparts = Problems(), dict[int, Any]()
    with torch.random.fork_rng(devices=[]):
        converted = Conversion(torch, problems, counterparts).to_torch(model, "")
    hint = "; write it in PyTorch, and load its parameters, model.state_dict(layout='torch') as Tensors"
    problems.raise_all("to_torch", hint)
    uses: dict[int, list[tuple[str, str, Any]]] = {}
    for path, part in model.named_modules():
        for name, p in part._parameters.items():
            uses.setdefault(id(p), []).append((path, name, part))
    for shared_uses in uses.values():
        (first_path, first_name, first), *others = shared_uses
        for path, name, part in others:
            if (name in part.transposed_in_torch) != (first_name in first.transposed_in_torch):
                names = [f"{p}.{n}".lstrip(".") for p, n in ((first_path, first_name), (path, name))]
                raise ExportError(f"interop.to_torch: {TIED.format(*names)}")
            setattr(counterparts[id(part)], name, getattr(counterparts[id(first)], first_name))
    return converted


TIED = "{} and {} are one parameter, which one of the two libraries stores transposed"


class Conversion:
    """The conversion of a module and its submodules, in either direction.

    counterparts   the counterpart of each converted module, by id, so that shared modules are converted once
    transposed     the ids of PyTorch's Linear layers whose weight has PyTorch's layout here too, because it is tied
    """

    def __init__(self, torch: Any, problems: Problems, counterparts: dict[int, Any], transposed: Collection[int] = ()) -> None:
        self.torch, self.problems, self.counterparts, self.transposed = torch, problems, counterparts, transposed
        self.table = table()

    def from_torch(self, t: Any, path: str) -> Any:
        """Convert a PyTorch module to ours; None if there is a problem."""
        if id(t) in self.counterparts:
            return self.counterparts[id(t)]
        name = type(t).__name__
        if getattr(self.torch.nn, name, None) is not type(t):
            self.problems[path] = f"{name}, a class that is not part of PyTorch"
            return None
        parts = [t] if is_container(name) else t.modules()
        is_hooked = any(h.endswith("_hooks") and getattr(part, h) for part in parts for h in vars(part))
        return self.converted(t, name, path, is_hooked, self.from_torch, self.layer_from_torch)

    def to_torch(self, m: Module, path: str) -> Any:
        """Convert one of our modules to PyTorch's; None if there is a problem."""
        if id(m) in self.counterparts:
            return self.counterparts[id(m)]
        name = type(m).__name__
        is_chain = type(m).__mro__[1] is nn.Sequential and type(m).forward is nn.Sequential.forward
        is_own = getattr(nn, name, None) is type(m)
        if not (is_own or is_chain or type(m) is TiedLinear):
            self.problems[path] = f"{name}, a class that is not part of tensorgrad"
            return None
        name = name if is_own else "Sequential" if is_chain else "Linear"
        self.check_parts(m, name, path, nn)
        is_hooked = any(part._hooks for _, part in ([("", m)] if is_container(name) else m.named_modules()))
        return self.converted(m, name, path, is_hooked, self.to_torch, self.layer_to_torch)

    def converted(self, module: Any, name: str, path: str, is_hooked: bool, convert: Any, layer: Callable[..., Any]) -> Any:
        """A container with converted parts, or a layer; None if there is a problem."""
        own_arrays = (*module._parameters, *module._buffers)
        if is_container(name) and own_arrays:
            self.problems[path] = f"{name} with parameters or buffers of its own, {', '.join(own_arrays)}"
        if is_hooked:
            self.problems[path] = f"{name} with hooks"
        if path in self.problems:
            return None
        result = self.assembled(module, name, path, module._modules, convert)  # PyTorch's named_children() skips repeated ones
        if result is None and (name in CONTAINERS or (name in STACKS and self.problems)):  # a part has the problem
            return None
        if result is None and not (name in self.table and hasattr(self.torch.nn, name)):
            self.problems.setdefault(path, name)
            return None
        result = layer(module, name, path) if result is None else result
        if result is not None:
            result.training = module.training
            self.counterparts[id(module)] = result
        return result

    def assembled(self, container: Any, name: str, path: str, parts: dict[str, Any], convert: Any) -> Any:
        """A container with converted parts; None for other modules."""
        target = nn if convert == self.from_torch else self.torch.nn
        if name in CONTAINERS:
            converted = {key: convert(part, f"{path}.{key}" if path else key) for key, part in parts.items()}
            if None in converted.values():
                return None
            result = getattr(target, name)()
            for key, part in converted.items():
                if target is nn:
                    setattr(result, key, part)
                else:
                    result.add_module(key, part)
            return result
        if name in STACKS:
            layers = [
                convert(layer, f"{path}.layers.{i}" if path else f"layers.{i}") for i, layer in enumerate(container.layers)
            ]
            norm = None if container.norm is None else convert(container.norm, f"{path}.norm" if path else "norm")
            if None in layers or not layers or (norm is None) != (container.norm is None):
                return None
            options = {} if target is nn else {"enable_nested_tensor": False} if "Encoder" in name else {}
            result = getattr(target, name)(layers[0], len(layers), norm, **options)
            for i, layer in enumerate(layers):
                result.layers[i] = layer
            result.layers.training = container.layers.training
            return result
        return None

    def layer_from_torch(self, t: Any, name: str, path: str) -> Any:
        for attribute, required in REQUIRED_OPTIONS.items():
            for part in (t, getattr(t, "self_attn", None), getattr(t, "multihead_attn", None)):
                value = getattr(part, attribute, required)
                if isinstance(value, self.torch.Tensor) or value != required:
                    self.problems[path] = f"{name} with {CONSTRUCTOR_ARGUMENTS.get(attribute, f'{attribute}={value!r}')}"
        if "Norm" in name and getattr(t, "track_running_stats", "Batch" in name) != ("Batch" in name):
            self.problems[path] = f"{name} with track_running_stats={t.track_running_stats}"
        if "BatchNorm" in name and t.momentum is None:
            self.problems[path] = f"{name} with momentum=None"
        if "Norm" in name and hasattr(t, "bias") and (t.bias is None) != (t.weight is None):
            self.problems[path] = f"{name} without bias"
        if name == "Softplus" and t.threshold != 20:
            self.problems[path] = f"{name} with threshold={t.threshold}"
        if name == "Upsample" and t.recompute_scale_factor:
            self.problems[path] = f"{name} with recompute_scale_factor=True"
        self.check_parts(t, name, path, self.torch.nn)
        if path in self.problems:
            return None
        kwargs = {our_name: self.argument(t, torch_name, FROM_TORCH) for our_name, torch_name in self.table[name]}
        if name.startswith("Transformer") and kwargs["activation"] not in ("relu", "gelu"):
            self.problems[path] = f"{name} with activation={kwargs['activation']}"
        if "axis" in kwargs and kwargs["axis"] is None:
            self.problems[path] = f"{name} with dim=None"
        if path in self.problems:
            return None
        dtypes = {str(p.dtype).removeprefix("torch.") for p in t.parameters()}
        if len(dtypes) > 1 or not dtypes.issubset(DTYPES):
            self.problems[path] = f"{name} of dtype {' and '.join(sorted(dtypes))}"
        elif any(p.is_meta for p in t.parameters()):
            self.problems[path] = f"{name} without values, on the device meta"
        if path in self.problems:
            return None
        result = getattr(nn, name)(**kwargs)
        if id(t) in self.transposed:
            result = TiedLinear(nn.Parameter(result.weight.data.T.copy()), result.bias)
        if dtypes:
            result.to(dtype="float32" if dtypes == {"bfloat16"} else dtypes.pop())
        try:
            result.load_state_dict(t.state_dict(), layout="torch")
        except TensorgradError as error:  # parts were added or replaced
            self.problems[path] = f"{name} with other parameters: {str(error).removeprefix('load_state_dict: ')}"
            return None
        for key, part in t.named_modules():
            if key == "activation":  # here it is a name
                continue
            counterpart = part_of(result, key)
            self.counterparts[id(part)] = counterpart
            counterpart.training = part.training
            for p_name, p in part.named_parameters(recurse=False):
                getattr(counterpart, p_name).requires_grad_(p.requires_grad)
        return result

    def check_parts(self, layer: Any, name: str, path: str, source: Any) -> None:
        """Note options of a transformer layer's parts that the converted layer cannot be created with."""
        if not name.startswith("Transformer") or name in STACKS:
            return
        parts = {key: part for key, part in layer._modules.items() if key != "activation"}
        for key, part in parts.items():
            kind = next((kind for word, kind in PART_CLASSES.items() if word in key), "")
            if type(part) is not getattr(source, kind, None):
                self.problems[path] = f"{name} with {key}: {type(part).__name__}"
                return
        rates = {part.p for part in parts.values() if hasattr(part, "p")}
        if len(rates | {part.dropout for part in parts.values() if hasattr(part, "dropout")}) > 1:
            self.problems[path] = f"{name} with different dropout rates"
        elif len({part.eps for part in parts.values() if hasattr(part, "eps")}) > 1:
            self.problems[path] = f"{name} with different eps"
        elif any(getattr(part, "bias", True) is None for part in parts.values()):
            self.problems[path] = f"{name} without bias"

    def layer_to_torch(self, m: Any, name: str, path: str) -> Any:
        kwargs = {
            torch_argument(our_name, torch_name): self.argument(m, our_name, FROM_TENSORGRAD)
            for our_name, torch_name in self.table[name]
        }
        result = getattr(self.torch.nn, name)(**kwargs)
        state = m.state_dict(layout="torch")
        if state:
            kinds = {a.dtype.name for a in state.values()}
            if len(kinds) > 1:
                self.problems[path] = f"{name} of dtype {' and '.join(sorted(kinds))}"
                return None
            result.to(getattr(self.torch, next(iter(kinds))))
            tensors = {key: self.torch.from_numpy(np.ascontiguousarray(a)) for key, a in state.items()}
            try:
                result.load_state_dict(tensors)
            except RuntimeError as error:  # parts were added or replaced
                self.problems[path] = f"{name} with other parameters: {' '.join(str(error).split())}"
                return None
        for key, part in m.named_modules():
            counterpart = part_of(result, key)
            self.counterparts[id(part)] = counterpart
            counterpart.training = part.training
            for p_name, p in part._parameters.items():
                getattr(counterpart, p_name).requires_grad_(p.requires_grad)
        return result

    def argument(self, m: Any, name: str, special: dict[str, Callable[[Any], Any]]) -> Any:
        """The value of a constructor argument of a layer."""
        if name in special:
            return special[name](m)
        return SPECIAL[name](m) if name in SPECIAL else getattr(m, name)


def torch_argument(our_name: str, torch_name: str) -> str:
    """PyTorch's name of an argument: that of its attribute, with two exceptions."""
    return {"norm": "p", "min_val": "min_val"}.get(torch_name, torch_name)


def part_of(module: Any, path: str) -> Any:
    """The submodule at a path."""
    for name in path.split(".") if path else ():
        module = getattr(module, name)
    return module


def torch_parameters(module: Any) -> dict[int, list[tuple[Any, str, str]]]:
    """The uses of each PyTorch parameter: module, name in it, and path."""
    uses: dict[int, list[tuple[Any, str, str]]] = {}
    for path, part in module.named_modules():
        for name, p in part.named_parameters(recurse=False):
            uses.setdefault(id(p), []).append((part, name, f"{path}.{name}".lstrip(".")))
    return uses


def transposed_linears(uses: dict[int, list[tuple[Any, str, str]]], torch: Any) -> set[int]:
    """The ids of Linear layers that share their weight with another kind of layer, such as an Embedding."""
    linears = set()
    for shared_uses in uses.values():
        kinds = [(getattr(nn, type(part).__name__, None), name) for part, name, _ in shared_uses]
        if any(name not in getattr(kind, "transposed_in_torch", ()) for kind, name in kinds):
            linears |= {id(part) for part, _, _ in shared_uses if type(part) is torch.nn.Linear}
    return linears


def tie(uses: dict[int, list[tuple[Any, str, str]]], counterparts: dict[int, Any]) -> None:
    """Tie the parameters that are tied in PyTorch."""
    for (first, first_name, first_path), *others in uses.values():
        first_counterpart = counterparts[id(first)]
        for part, name, path in others:
            counterpart = counterparts[id(part)]
            if (name in counterpart.transposed_in_torch) != (first_name in first_counterpart.transposed_in_torch):
                raise ExportError(f"interop.from_torch: {TIED.format(first_path, path)}")
            setattr(counterpart, name, getattr(first_counterpart, first_name))


def package(where: str) -> Any:
    """Import PyTorch."""
    try:
        import torch
    except ImportError:
        raise MissingDependencyError(f"interop.{where} needs PyTorch: pip install torch") from None
    return torch


if not TYPE_CHECKING:  # a type checker would otherwise accept any name

    def __getattr__(name: str) -> None:
        missing(__name__, name)
