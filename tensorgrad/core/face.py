"""Face: the operators and methods of a Tensor that are made of ops, walks over the graph, or drawings."""


class Face:
    """Empty here: all of that stands above the Tensor, and tensorgrad/methods.py puts it in when the package is imported.

    What type checkers are to know of it stands in face.pyi, written by `python -m tests.face`.
    """

    __slots__ = ()
