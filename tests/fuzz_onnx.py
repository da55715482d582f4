"""Files of ONNX's that are changed at random: `python -m tests.fuzz_onnx --count 10000 --seed 1`.

Nodes are removed, doubled, put in other places and made other operators; edges, attributes, shapes, dtypes, names, and the
numbers in initialisers are changed, to sizes that no memory holds among others. Each file is loaded and, if that goes well,
called. What comes is a result, or one of the library's errors, in a few seconds, and in no more memory than onnx.limits allows.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tensorgrad import nn, no_grad
from tensorgrad.errors import TensorgradError
from tensorgrad.onnx import export, limits, load
from tensorgrad.onnx.operators import OPERATORS
from tests.fuzz_files import limited

GOLDEN = Path(__file__).parent / "golden" / "torch_exported.npz"
MODELS = ("mlp", "cnn", "encoder", "gpt", "decoder")
SLOWEST = 8.0  # seconds, with the machine shared
MEMORY = limits.BYTES * 2  # what is allowed, and as much again on the way to it
NUMBERS = (-(2**63), -(10**12), -65, -9, -2, -1, 0, 1, 2, 3, 7, 64, 65, 10**5, 10**9, 10**12, 2**31, 2**63 - 1)
FLOATS = (float("nan"), float("inf"), -float("inf"), 1e38, -1.0, 0.0, 1e-45)
NAMES = (
    "", ".", "..", "forward", "forward.weight", "inputs.w", "__class__", "__dict__.a", "a." * 2000 + "w", "x\0y", "ü",
    "training", "weight", "_parameters.w", "state_dict",
)  # fmt: skip


class Seed(NamedTuple):
    proto: Any
    inputs: list[np.ndarray]


def seeds(folder: Path) -> list[Seed]:
    """Models of PyTorch's, arrays inside, and one of operators that make large arrays of small ones."""
    found = []
    with np.load(GOLDEN) as file:
        for name in MODELS:
            for part in ("m.onnx", "m.onnx.data"):
                (folder / part).unlink(missing_ok=True)
                if f"{name}/{part}" in file:
                    (folder / part).write_bytes(file[f"{name}/{part}"].tobytes())
            inputs = [file[f"{name}/x{i}"] for i in range(2) if f"{name}/x{i}" in file]
            found.append(Seed(onnx.load(str(folder / "m.onnx")), inputs))
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype("f")
    for layer in (nn.LSTM(4, 2, batch_first=True), nn.GRU(4, 2, bidirectional=True)):  # written as Scan
        export(layer, x, folder / "scan.onnx", batch_axis=None)
        found.append(Seed(onnx.load(str(folder / "scan.onnx")), [x]))
    return [*found, growing()]


def growing() -> Seed:
    """What says how large its result is."""
    arrays = {
        "shape": [2, 3], "repeats": [1, 2], "pads": [0, 1, 0, 1], "zero": 0, "end": 6, "one": 1, "axes": [1], "starts": [0],
        "ends": [4], "take": [0, 1, 1], "sizes": [1, 1],
    }  # fmt: skip
    make = helper.make_node
    nodes = [
        make("Expand", ["x", "shape"], ["a"]),
        make("Tile", ["a", "repeats"], ["b"]),
        make("Pad", ["b", "pads"], ["c"]),
        make("Range", ["zero", "end", "one"], ["r"]),
        make("ConstantOfShape", ["shape"], ["s"]),
        make("Slice", ["c", "starts", "ends", "axes"], ["d"]),
        make("Gather", ["d", "take"], ["e"], axis=1),
        make("Add", ["e", "s"], ["f"]),
        make("Split", ["f", "sizes"], ["g", "h"], axis=0),
        make("Concat", ["g", "h"], ["i"], axis=1),
        make("Transpose", ["i"], ["j"], perm=[1, 0]),
        make("MatMul", ["j", "i"], ["k"]),
        make("Einsum", ["k", "i"], ["l"], equation="ab,cb->ac"),
        make("CumSum", ["l", "zero"], ["m"]),
        make("Trilu", ["k"], ["n"]),
        make("Unsqueeze", ["m", "axes"], ["o"]),
        make("AveragePool", ["o"], ["p"], kernel_shape=[2], strides=[1], pads=[1, 1]),
        make("MaxPool", ["p"], ["q"], kernel_shape=[1], dilations=[1]),
        make("ConvTranspose", ["q", "kernel"], ["t"], strides=[2], output_padding=[1]),
        make("Cast", ["r"], ["u"], to=TensorProto.FLOAT),
        make("Reshape", ["u", "end1"], ["v"]),
        make("ReduceSum", ["t", "axes"], ["y"]),
        make("Resize", ["x", "", "", "shape"], ["resized"], mode="linear"),
        make("Unsqueeze", ["x", "axes"], ["z"]),
        make("LSTM", ["z", "w", "w"], ["states"], hidden_size=1),
    ]
    tensors = [numpy_helper.from_array(np.asarray(a, np.int64), name) for name, a in arrays.items()]
    tensors += [
        numpy_helper.from_array(np.ones((1, 2, 3), "f"), "kernel"),
        numpy_helper.from_array(np.ones((1, 4, 1), "f"), "w"),
    ]
    tensors += [numpy_helper.from_array(np.array([6]), "end1")]
    info = helper.make_tensor_value_info
    results = [info(name, TensorProto.FLOAT, ["m"]) for name in ("y", "n", "v", "resized", "states")]
    graph = helper.make_graph(nodes, "g", [info("x", TensorProto.FLOAT, [2, 1])], results, tensors)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return Seed(proto, [np.ones((2, 1), np.float32)])


# Changes


def pick(rng: np.random.Generator, things: Any) -> Any:
    return things[int(rng.integers(len(things)))]


def names_in(graph: Any) -> list[str]:
    return [*[t.name for t in graph.initializer], *[o for n in graph.node for o in n.output], *[i.name for i in graph.input]]


def remove(rng: np.random.Generator, graph: Any) -> None:
    del graph.node[int(rng.integers(len(graph.node)))]


def double(rng: np.random.Generator, graph: Any) -> None:
    graph.node.add().CopyFrom(pick(rng, graph.node))


def move(rng: np.random.Generator, graph: Any) -> None:
    nodes = list(graph.node)
    nodes.insert(int(rng.integers(len(nodes))), nodes.pop(int(rng.integers(len(nodes)))))
    copies = [type(n).FromString(n.SerializeToString()) for n in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def edge(rng: np.random.Generator, graph: Any) -> None:
    node = pick(rng, graph.node)
    if node.input:
        node.input[int(rng.integers(len(node.input)))] = pick(rng, [*names_in(graph), ""])


def earlier_edge(rng: np.random.Generator, graph: Any) -> None:
    """An input that is known where it is asked for, so that the checker lets it pass."""
    i = int(rng.integers(len(graph.node)))
    known = [
        *[t.name for t in graph.initializer],
        *[o for n in graph.node[:i] for o in n.output],
        *[x.name for x in graph.input],
    ]
    if graph.node[i].input:
        graph.node[i].input[int(rng.integers(len(graph.node[i].input)))] = pick(rng, known)


def cycle(rng: np.random.Generator, graph: Any) -> None:
    node = pick(rng, graph.node)
    if node.input and node.output:
        node.input[0] = node.output[0]


def fewer_inputs(rng: np.random.Generator, graph: Any) -> None:
    node = pick(rng, graph.node)
    if node.input:
        node.input.pop()


def more_inputs(rng: np.random.Generator, graph: Any) -> None:
    pick(rng, graph.node).input.append(pick(rng, names_in(graph)))


def kind(rng: np.random.Generator, graph: Any) -> None:
    pick(rng, graph.node).op_type = pick(rng, sorted(OPERATORS))


def attribute(rng: np.random.Generator, graph: Any) -> None:
    nodes = [n for n in graph.node if n.attribute]
    if not nodes:
        return
    node = pick(rng, nodes)
    a = pick(rng, node.attribute)
    if a.HasField("t"):
        number_of(rng, a.t)
    elif a.ints:
        a.ints[int(rng.integers(len(a.ints)))] = pick(rng, NUMBERS)
        if rng.random() < 0.2:
            a.ints.append(pick(rng, NUMBERS))
    elif a.type == onnx.AttributeProto.INT:
        a.i = pick(rng, NUMBERS)
    elif a.type == onnx.AttributeProto.FLOAT:
        a.f = pick(rng, FLOATS)
    elif a.type == onnx.AttributeProto.STRING:
        a.s = pick(rng, [b"", b"\xff", b"SAME_UPPER", b"ab->", b"...,...->...", b"ab,cd->abcd"])


def attribute_name(rng: np.random.Generator, graph: Any) -> None:
    nodes = [n for n in graph.node if n.attribute]
    if nodes:
        pick(rng, pick(rng, nodes).attribute).name = pick(rng, ["axis", "pads", "strides", "self", "to", "x", "kernel_shape"])


def fewer_attributes(rng: np.random.Generator, graph: Any) -> None:
    nodes = [n for n in graph.node if n.attribute]
    if nodes:
        node = pick(rng, nodes)
        del node.attribute[int(rng.integers(len(node.attribute)))]


def number_of(rng: np.random.Generator, tensor: Any) -> None:
    """Another number in an array, one of extremes."""
    array = numpy_helper.to_array(tensor).copy()
    if array.size and array.dtype.kind in "if":
        array.reshape(-1)[int(rng.integers(array.size))] = pick(
            rng, NUMBERS if array.dtype == np.int64 else (*FLOATS[:-1], 2.0)
        )
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def number(rng: np.random.Generator, graph: Any) -> None:
    tensors = [t for t in graph.initializer if t.data_type == TensorProto.INT64] or graph.initializer
    if tensors:
        number_of(rng, pick(rng, tensors))


def dims(rng: np.random.Generator, graph: Any) -> None:
    if graph.initializer:
        tensor = pick(rng, graph.initializer)
        choice = int(rng.integers(4))
        if choice == 0 and tensor.dims:
            tensor.dims[int(rng.integers(len(tensor.dims)))] = pick(rng, NUMBERS)
        elif choice == 1:
            tensor.dims[:] = [pick(rng, NUMBERS) for _ in range(int(rng.integers(4)))]
        elif choice == 2:
            tensor.ClearField("raw_data")
        else:
            tensor.dims[:] = tensor.dims[::-1]


def dtype(rng: np.random.Generator, graph: Any) -> None:
    if graph.initializer:
        pick(rng, graph.initializer).data_type = int(rng.integers(-1, 26))


def cast_array(rng: np.random.Generator, graph: Any) -> None:
    """An initialiser in another dtype, as it should be."""
    if graph.initializer:
        tensor = pick(rng, graph.initializer)
        to = pick(rng, ["float64", "float16", "int32", "int8", "uint8", "bool", "int64"])
        with np.errstate(all="ignore"):
            array = numpy_helper.to_array(tensor).astype(to)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def name(rng: np.random.Generator, graph: Any) -> None:
    """Another name of an initialiser, wherever it stands: an odd one, or that of another."""
    if graph.initializer:
        tensor = pick(rng, graph.initializer)
        old, new = tensor.name, pick(rng, [*NAMES, *names_in(graph)])
        tensor.name = new
        for node in graph.node:
            node.input[:] = [new if i == old else i for i in node.input]


def twice(rng: np.random.Generator, graph: Any) -> None:
    if graph.initializer:
        graph.initializer.add().CopyFrom(pick(rng, graph.initializer))


def result(rng: np.random.Generator, graph: Any) -> None:
    pick(rng, graph.output).name = pick(rng, [*names_in(graph), "nowhere"])


def chain(rng: np.random.Generator, graph: Any) -> None:
    """Each node makes twice as much, or its square."""
    start = pick(rng, names_in(graph))
    chosen, count = pick(rng, ["Concat", "Einsum", "Tile", "MatMul"]), int(rng.integers(2, 60))
    graph.initializer.add().CopyFrom(numpy_helper.from_array(np.array([3] * 2), "chain_times"))
    for i in range(count):
        given = [start] if chosen == "Einsum" else [start, "chain_times" if chosen == "Tile" else start]
        more = {"Concat": {"axis": 0}, "Einsum": {"equation": "...,...->..."}}.get(chosen, {})
        given = given * 2 if chosen == "Einsum" else given
        graph.node.add().CopyFrom(helper.make_node(chosen, given, [f"chain{i}"], **more))
        start = f"chain{i}"
    graph.output[0].name = start


CHANGES: list[Callable[[np.random.Generator, Any], None]] = [
    remove, double, move, edge, cycle, fewer_inputs, more_inputs, kind, attribute_name, fewer_attributes, dims, dtype, name,
    twice, result,
]  # fmt: skip
SOUND: list[Callable[[np.random.Generator, Any], None]] = [  # what the checker mostly lets pass
    earlier_edge, earlier_edge, attribute, attribute, attribute, number, number, number, cast_array, chain,
]  # fmt: skip


def mutated(rng: np.random.Generator, seed: Seed) -> bytes:
    proto = onnx.ModelProto()
    proto.CopyFrom(seed.proto)
    changes = [*CHANGES, *SOUND] if rng.random() < 0.4 else SOUND
    for _ in range(int(rng.integers(1, 5))):
        graph = pick(rng, [proto.graph, *(a.g for node in proto.graph.node for a in node.attribute if a.HasField("g"))])
        if not graph.node:
            break
        with contextlib.suppress(ValueError, TypeError, KeyError, OverflowError):  # of what a change before has left broken
            pick(rng, changes)(rng, graph)
        if rng.random() < 0.02:
            proto.opset_import[0].version = int(rng.integers(-1, 30))
    content: bytes = proto.SerializeToString()
    return content


class Trial:
    """counts: what has come. failures: what must not. slowest: seconds."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.seeds = folder, seeds(folder)
        self.counts: Counter[str] = Counter()
        self.failures: list[str] = []
        self.slowest = 0.0

    def one(self, number: int) -> None:
        """The file of this number."""
        rng = np.random.default_rng(number)
        seed = pick(rng, self.seeds)
        self.file(mutated(rng, seed), seed, number)

    def file(self, content: bytes, seed: Seed, number: Any) -> None:
        path = self.folder / "fuzzed.onnx"
        path.write_bytes(content)
        before, since = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
        try:
            with limited(), np.errstate(all="ignore"):
                model = load(path)
                self.counts["loaded"] += 1
                with no_grad():
                    model(*seed.inputs)
            self.counts["called"] += 1
        except TensorgradError:
            self.counts["refused"] += 1
        except BaseException as error:
            self.failures.append(f"{number}: {type(error).__name__}: {error}"[:300])
            if isinstance(error, KeyboardInterrupt):
                raise
        seconds, more = time.monotonic() - since, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        self.slowest = max(self.slowest, seconds)
        if seconds > SLOWEST:
            self.failures.append(f"{number}: {seconds:.1f} s")
        if more * 1024 > MEMORY:
            self.failures.append(f"{number}: {more / 1024:.0f} MiB")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz_onnx", description=__doc__)
    parser.add_argument("--count", type=int, default=sys.maxsize)
    parser.add_argument("--seed", type=int, default=0, help="the number of the first file")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        trial = Trial(Path(folder))
        for number in itertools.islice(itertools.count(args.seed), args.count):
            before = len(trial.failures)
            trial.one(number)
            for failure in trial.failures[before:]:
                print(failure, flush=True)
        print(dict(trial.counts), f"slowest {trial.slowest:.1f} s; {len(trial.failures)} failures")
    return 1 if trial.failures else 0


if __name__ == "__main__":
    sys.exit(main())
