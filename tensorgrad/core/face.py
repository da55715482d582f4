"""Face: the operators and methods of Tensor that are defined above the core."""


class Face:
    """Empty here: tensorgrad/methods.py adds the methods when the package is imported.

    For type checkers they are declared in face.pyi, written by `python -m tests.face`.
    """

    __slots__ = ()
