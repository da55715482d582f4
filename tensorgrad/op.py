"""Operations: each is one class, a use of it one node of the graph.

To add an operation, write one class with its formula, `forward`, `backward` and `jvp`, and make one instance of it::

    class Square(Op):
        \"\"\"y = x²

        forward    y  = x²
        backward   gx = 2 g x
        tangent    ty = 2 x tx
        \"\"\"

        name, signature, reads = "square", "()->()", "x"

        def forward(self, xp, x):
            return xp.square(x)

        def backward(self, g, y, x):
            return (lambda: 2 * g * x,)

        def jvp(self, y, x):
            return (lambda t: 2 * x * t,)

    square = Square()

`forward` always gets arrays. `backward` gets arrays, or Tensors when the gradient is itself to be differentiated: write it
with operators, methods and ops, and it serves both. It returns one function per input (None where there is no gradient), so
that only the gradients somebody wants are computed. `reads` names those of its parameters whose values it uses ("y" for the
result): the others are not kept, and to use one is an error. Un-broadcasting, summing over several uses, dtypes and shape
checks are the engine's work: a rule is its formula alone.

`jvp` is the same derivative the other way, for forward mode: one function per input (None where the derivative is 0), which
takes the tangent of that input, of its shape, and gives its part of the tangent of y, of a shape that broadcasts to y's; the
engine adds the parts up. What it reads has to stand in `reads`, too. Instead of the tuple it may return one function of the
tangents of all inputs, None for each that stands still. It is written anew, not made of `backward`, so that each is a check of
the other. Where y is linear in an argument, `linear` names it (`linear = "a b"`: in each alone), and `jvp` need not be written.
Without one tangents are computed by transposing `backward`.

An op is called with arrays, in the order in which `forward` takes them; attributes, which `forward` takes by keyword, are
given by keyword, or as its own `__call__` says. `inspect.signature` shows which. Type checkers accept anything, unless there
is such a `__call__`, or the class derives from Unary, Binary or Ternary: an op of one, two or three arrays.
"""

from tensorgrad.core.node import Node
from tensorgrad.core.op import REGISTRY, Op, Rules, Sample, Tangents, Value
from tensorgrad.core.operand import Binary, Operand, Ternary, Unary
from tensorgrad.core.signature import Shape, Signature

__all__ = [
    "REGISTRY", "Binary", "Node", "Op", "Operand", "Rules", "Sample", "Shape", "Signature", "Tangents", "Ternary", "Unary",
    "Value",
]  # fmt: skip
