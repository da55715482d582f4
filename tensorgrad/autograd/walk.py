"""The reverse walk: from a Tensor back to the leaves it depends on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from tensorgrad.autograd import fusion
from tensorgrad.autograd.saved import as_float32, described, is_wide, recorded_nodes, rule_values
from tensorgrad.autograd.sums import Source, Sums, add_zeros, hooked, paired, user_gradient
from tensorgrad.core.arguments import truth
from tensorgrad.core.backend import (
    current_gpu,
    device_of,
    is_half,
    namespace,
    on,
    on_gpu,
    wait_for,
)
from tensorgrad.core.batched import Batched
from tensorgrad.core.location import user_location
from tensorgrad.core.node import Freed, Node, Unread
from tensorgrad.core.op import Rules
from tensorgrad.core.ranks import ranks
from tensorgrad.core.state import describe, is_checking, is_recording, state, switched, who_measures
from tensorgrad.core.tensor import Tensor, raw, wrap
from tensorgrad.errors import AnomalyError, BatchError, DeviceError, DTypeError, GraphError, ShapeError
from tensorgrad.ops import astype, sum_to


def no_grad() -> switched:
    """Context manager and decorator that disables recording in this thread.

    It applies to the current asyncio task and to tasks created inside the block; threads started inside do record. A generator
    that yields inside the block leaves recording disabled for its caller.
    """
    return switched(recording=False)


def detect_anomaly() -> switched:
    """Context manager: the first op that produces a NaN or an infinity, forward or backward, raises AnomalyError.

    The error names the op with its module path and the line of your code, and says whether the op produced the value or passed
    it on. Every result is searched, so use it for debugging, not for training.
    """
    if state.trace is not None:
        state.trace.forbid("detect_anomaly()")
    return switched(checking=True)


def backward(root: Tensor, gradient: Any = None, *, retain_graph: bool | None = None, create_graph: bool = False) -> None:
    """Add the gradient of `root` to the `.grad` of every leaf it depends on; see Tensor.backward."""
    seed = _seed("backward", root, gradient, create_graph)
    trace = state.trace
    for tensor, g in _walk("backward", [root], [seed], None, create_graph, retain_graph):
        if trace is not None:
            trace.accumulates(tensor)
        before = tensor._grad
        if before is None:
            tensor._grad = g
        elif create_graph or before.requires_grad or state.tracing:
            tensor._grad = before + g
        elif type(g._data) is np.ndarray:
            before._data += g._data
            ranks.averaged.discard(before)
        else:
            with on(g._data):
                before._data += g._data
            ranks.averaged.discard(before)


def grad(
    outputs: Tensor | Sequence[Tensor],
    inputs: Tensor | Iterable[Tensor],
    grad_outputs: Any = None,
    *,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    allow_unused: bool = False,
) -> tuple[Tensor, ...]:
    """Return the gradients of `outputs` with respect to each of `inputs`, leaves or computed Tensors; no `.grad` is changed.

    outputs        a Tensor, or several, whose gradients add up
    grad_outputs   the gradient of the loss with respect to each output (a sequence for a sequence), of its shape; None means 1,
                   allowed for a 0-d output only
    retain_graph   keep the recorded values for another pass (default: the value of create_graph)
    create_graph   record the backward pass, so that the gradients can be differentiated again
    allow_unused   return None for an input that no output depends on, instead of raising an error

    Raises GraphError for an unused input, and the errors of Tensor.backward.
    """
    roots = _tensors("grad", "output", outputs)
    if isinstance(outputs, Tensor):
        grads = [grad_outputs]
    else:
        grads = [None] * len(roots) if grad_outputs is None else _as_list("grad", "grad_outputs", grad_outputs)
    if len(grads) != len(roots):
        raise GraphError(f"grad: {len(grads)} grad_outputs for {len(roots)} outputs")
    targets = tuple(_tensors("grad", "input", inputs))
    for i, t in enumerate(targets):
        if not t.requires_grad:
            raise GraphError(f"grad: input {i} (shape {t.shape}) does not require a gradient")
    seeds = [_seed("grad", root, g, create_graph) for root, g in zip(roots, grads, strict=True)]
    gradients = {id(t.node or t): g for t, g in _walk("grad", roots, seeds, targets, create_graph, retain_graph)}
    for i, t in enumerate(targets):
        if id(t.node or t) not in gradients and not allow_unused:
            raise GraphError(
                f"grad: the output was not computed from input {i} (shape {t.shape}); allow_unused=True gives None for it"
            )
    return tuple(gradients.get(id(t.node or t)) for t in targets)  # type: ignore[misc]  # None only if allowed


def between(output: Tensor, inputs: Sequence[Tensor], gradient: Any, create_graph: bool) -> list[Tensor | None]:
    """The gradients with respect to `inputs`, wherever they come from; None for one without influence.

    Nothing is freed, because other graphs may share the nodes.
    """
    targets = tuple(inputs)
    seed = _seed("grad", output, gradient, create_graph)
    gradients = {id(t.node or t): g for t, g in _walk("grad", [output], [seed], targets, create_graph, True, ends=True)}
    return [gradients.get(id(t.node or t)) for t in targets]


def _as_list(caller: str, what: str, value: Any) -> list[Any]:
    try:
        return list(value)
    except TypeError:
        raise DTypeError(f"{caller}: {what} must be a sequence, got {describe(value)}") from None


def _tensors(caller: str, what: str, values: Any) -> list[Tensor]:
    """One Tensor or several, as a list."""
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, (np.ndarray, str, bytes)) or not isinstance(values, Iterable):
        raise DTypeError(f"{caller}: the {what}s must be a Tensor or several, got {describe(values)}")
    tensors = list(values)
    for i, t in enumerate(tensors):
        if not isinstance(t, Tensor):
            raise DTypeError(f"{caller}: {what} {i} must be a Tensor, got {describe(t)}")
    return tensors


def _seed(caller: str, root: Tensor, gradient: Any, recorded: bool) -> Tensor:
    """The initial gradient of the walk."""
    if not root.requires_grad:
        raise GraphError(f"{caller}: this Tensor (shape {root.shape}) was not computed from anything that requires a gradient")
    if gradient is None:
        if root.ndim:
            raise GraphError(
                f"{caller}: the Tensor has shape {root.shape}; only a 0-d Tensor needs no gradient argument. "
                f"Reduce it with .sum() or .mean(), or pass a gradient of shape {root.shape}"
            )
        with on(root._data):
            xp = namespace([root._data])
            return wrap(np.array(1, root.dtype) if xp is np else xp.ones((), root.dtype), None)
    seed = gradient if isinstance(gradient, Tensor) else user_gradient(gradient, f"{caller}: gradient", recorded)
    if device_of(seed._data) != device_of(root._data):
        raise DeviceError(f"{caller}: the gradient is on {seed.device}, the Tensor on {root.device}")
    if seed.shape != root.shape:
        raise ShapeError(f"{caller}: the gradient has shape {seed.shape}, expected {root.shape}, the shape of the Tensor")
    return seed if seed.dtype == root.dtype else astype(seed, root.dtype)


def _walk(
    caller: str,
    roots: list[Tensor],
    seeds: list[Tensor],
    inputs: tuple[Tensor, ...] | None,
    create_graph: bool,
    retain: bool | None,
    ends: bool = False,
) -> list[tuple[Tensor, Tensor]]:
    """Pairs of Tensor and gradient for `inputs`, or for all leaves if it is None; the walk stops at `ends`.

    Rules are pure and their results may share memory with each other; returned gradients share memory with nothing.
    """
    if state.walked is not None:
        state.walked(roots)
    if state.batching is not None and any(type(t) is Batched for t in (*roots, *(inputs or ()))):
        raise BatchError(
            f"{caller}: inside vmap, gradients of a batched Tensor are per sample; take them with tensorgrad.func.grad"
        )
    if type(create_graph) is not bool:
        create_graph = truth(caller, "create_graph", create_graph)
    if type(retain) is not bool and retain is not None:
        retain = truth(caller, "retain_graph", retain)
    record = create_graph or state.tracing
    targets: dict[Source, Tensor] = {t.node or t: t for t in inputs or ()}
    nodes = recorded_nodes(caller, roots)
    on_path = _on_path(nodes, targets) if inputs is not None else None
    fused = fusion.match(nodes, targets) if state.fusing and not is_checking() else {}
    freed = None if (create_graph if retain is None else retain) else Freed.by(user_location())
    sums = Sums(record)
    for root, seed in zip(roots, seeds, strict=True):
        sums.add(root.node or root, seed if record else seed._data)
    retained: list[tuple[Source, Tensor]] = []

    gpu = current_gpu()
    switches = state.__dict__  # the switches of this thread
    before = {name: switches[name] for name in ("tracing", "scope", "gradient_of", "walked")}
    was_recording, state.recording = is_recording(), create_graph
    switches["tracing"], switches["walked"] = record, None
    try:
        for node in nodes:
            g = sums.gradients.get(node)
            if on_path is not None and (node not in on_path or (ends and node in targets)):
                continue
            if g is None:
                if node not in sums.zero:
                    continue
                if node.hooks is None and node.retain is None:
                    sums.zero.update(s for s in node.inputs if isinstance(s, (Node, Tensor)) and s.requires_grad)
                    continue
                root_array = roots[0]._data
                with on(root_array):
                    g = namespace([root_array]).zeros(node.shape, node.dtype)
                g = sums.gradients[node] = wrap(g, None) if record else g
            if gpu is not None and on_gpu(array := raw(g)):
                array.device.use()  # compute a rule on the device of its gradient
            if node.hooks is not None:
                g = g if g.dtype == node.dtype else astype(g, node.dtype)
                g = sums.gradients[node] = hooked(node.hooks, g, record)
            if node.retain is not None and inputs is None and (holder := node.retain()) is not None:
                retained.append((node, holder))
            elif node not in targets:
                del sums.gradients[node]
            replacement = fused.get(node, node)
            try:
                _differentiate(node, replacement, g, sums, on_path)
            except Exception as error:
                error.add_note(f"in the gradient of {described(node)}")
                raise
            if freed is not None:
                node.saved, node.out, node.alive = freed, None, None
                if replacement is not node:
                    for member in (replacement, *replacement.members):
                        member.saved, member.out, member.alive = freed, None, None
    finally:
        state.recording = was_recording
        switches.update(before)
        if gpu is not None:
            gpu.use()

    if inputs is None:
        add_zeros([(leaf, leaf) for leaf in sums.zero if isinstance(leaf, Tensor)], sums)
        pairs: list[tuple[Source, Tensor]] = [(leaf, leaf) for leaf in sums.gradients if isinstance(leaf, Tensor)] + retained
    else:
        read = {s for node in nodes for s in (node, *node.inputs)} if any(s not in sums.gradients for s in targets) else set()
        add_zeros([(source, t) for source, t in targets.items() if source in read], sums)
        pairs = [(source, t) for source, t in targets.items() if source in sums.gradients]
    return paired(pairs, sums, seeds)


def _differentiate(node: Node, replacement: Node, g: Any, sums: Sums, on_path: set[Source] | None) -> None:
    """Apply the rules of `replacement`, which replaces `node`, to its gradient g and accumulate the results."""
    profile, checking = who_measures(), is_checking()
    for source, rule in zip(replacement.inputs, _rules(replacement, node, g, sums.recorded), strict=True):
        if not isinstance(source, (Node, Tensor)) or not source.requires_grad:
            continue
        if rule is None:
            sums.zero.add(source)
            continue
        if on_path is not None and source not in on_path:
            continue
        gx = rule() if profile is None else _measured(profile, rule, replacement)
        if type(gx) is Unread:
            gx.refuse()
        form = source._data if isinstance(source, Tensor) else source  # an array has shape and dtype at hand, a Tensor asks it
        if gx.shape != form.shape:
            gx = sum_to(gx, form.shape)
        if gx.dtype is not form.dtype and gx.dtype != form.dtype:
            gx = _in_dtype_of(source, gx)
        if checking:
            _check_gradient(replacement, node, g, gx if gx.dtype == source.dtype else astype(gx, source.dtype))
        sums.add(source, gx)


def _in_dtype_of(source: Source, gx: Any) -> Any:
    """A gradient in the dtype of its source; for half precision it stays float32 until it is returned."""
    return gx if gx.dtype == np.float32 and is_half(source.dtype) else astype(gx, source.dtype)


def _rules(replacement: Node, node: Node, g: Any, record: bool) -> Rules:
    """The rules of `replacement` for arrays, or for Tensors if they are to be recorded; `node` is the node that it replaces."""
    assert replacement.op.backward is not None
    if record:
        state.scope, state.gradient_of = node.scope, replacement
    y, values = rule_values(replacement, node, record)
    return replacement.op.backward(as_float32(g) if is_wide(replacement) else g, y, *values, **replacement.attrs)


def _measured(profile: Any, rule: Callable[[], Any], replacement: Node) -> Any:
    """Run a rule and profile its time; the operations inside are not profiled one by one."""
    since = time.perf_counter()
    with switched(profile=None):
        gx = rule()
    profile.differentiated(replacement, replacement.op.name, wait_for(raw(gx)) - since, raw(gx).nbytes)
    return gx


def _check_gradient(replacement: Node, node: Node, g: Any, gx: Any) -> None:
    """Raise AnomalyError if the gradient `gx`, computed from `g`, has a NaN or an infinity."""
    g, gx = (a._data if isinstance(a, Tensor) else a for a in (g, gx))
    if bool(np.isfinite(gx).all()):
        return
    kind = "NaN" if bool(np.isnan(gx).any()) else "infinity"
    finite = bool(np.isfinite(g).all())
    origin = "produced here, from a finite incoming gradient" if finite else "passed on from the incoming gradient"
    raise AnomalyError(f"gradient of {described(node)}: {kind}, {origin}")


def _on_path(nodes: list[Node], targets: dict[Source, Tensor]) -> set[Source]:
    """The targets and every node that depends on one."""
    on_path: set[Source] = set(targets)
    for node in reversed(nodes):
        if node not in on_path and any(isinstance(s, (Node, Tensor)) and s in on_path for s in node.inputs):
            on_path.add(node)
    return on_path
