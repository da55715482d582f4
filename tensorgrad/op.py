"""Operations: each is one class, a use of it one node of the graph.

To add an operation, write one class with its formula, `forward` and `backward`, and make one instance of it::

    class Square(Op):
        \"\"\"y = x²

        forward    y  = x²
        backward   gx = 2 g x
        \"\"\"

        name, signature, reads = "square", "()->()", "x"

        def forward(self, xp, x):
            return xp.square(x)

        def backward(self, g, y, x):
            return (lambda: 2 * g * x,)

    square = Square()

`forward` always gets arrays. `backward` gets arrays, or Tensors when the gradient is itself to be differentiated: write it
with operators, methods and ops, and it serves both. It returns one function per input (None where there is no gradient), so
that only the gradients somebody wants are computed. `reads` names those of its parameters whose values it uses ("y" for the
result): the others are not kept, and to use one is an error. Un-broadcasting, summing over several uses, dtypes and shape
checks are the engine's work: a rule is its formula alone.

An op is called with arrays, in the order in which `forward` takes them; attributes, which `forward` takes by keyword, are
given by keyword, or as its own `__call__` says. `inspect.signature` shows which. Type checkers accept anything, unless there
is such a `__call__`, or the class derives from Unary, Binary or Ternary: an op of one, two or three arrays.
"""

from tensorgrad.core.node import Node
from tensorgrad.core.op import REGISTRY, Op, Rules, Sample, Value
from tensorgrad.core.operand import Binary, Operand, Ternary, Unary
from tensorgrad.core.signature import Shape, Signature

__all__ = [
    "REGISTRY", "Binary", "Node", "Op", "Operand", "Rules", "Sample", "Shape", "Signature", "Ternary", "Unary", "Value",
]  # fmt: skip
