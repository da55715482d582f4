"""Operations: each is one class, each use of it a node of the graph.

To add an operation, write one class with its formula, `forward`, `backward` and `jvp`, and create one instance::

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

`forward` always gets arrays. `backward` gets arrays, or Tensors if the gradient is itself to be differentiated: written with
operators, methods and ops, it serves both. It returns one function per input (None for no gradient), so only the gradients that
are needed are computed. `reads` names the parameters whose values it uses ("y" for the result): others are not kept, and using
one is an error. The engine takes care of un-broadcasting, accumulation, dtypes and shape checks: a rule is only its formula.

`jvp` is the derivative for forward mode: one function per input (None for a derivative of 0), which maps the tangent of this
input, of its shape, to its summand of y's tangent, of a shape that broadcasts to y's; the engine adds the summands. `reads`
must include what it reads. Alternatively it returns one function of the tangents of all inputs, None for constant ones. Write
it independently of `backward`, so that each checks the other. Where y is linear in an argument, name it in `linear`, such as
`linear = "a b"` (linear in each separately); `jvp` can then be omitted. Without `jvp`, tangents are computed by transposing
`backward`.

Call an op with arrays in the order of `forward`'s parameters, and attributes, which are `forward`'s keyword parameters, by
keyword, or define `__call__`. `inspect.signature` shows how. Type checkers accept any arguments, unless `__call__` is defined
or the class derives from Unary, Binary or Ternary: ops of one, two or three arrays.
"""

from tensorgrad.core.node import Node
from tensorgrad.core.op import REGISTRY, Op, Rules, Sample, Tangents, Value
from tensorgrad.core.operand import Binary, Operand, Ternary, Unary
from tensorgrad.core.signature import Shape, Signature

__all__ = [
    "REGISTRY", "Binary", "Node", "Op", "Operand", "Rules", "Sample", "Shape", "Signature", "Tangents", "Ternary", "Unary",
    "Value",
]  # fmt: skip
