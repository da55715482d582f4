"""Bytecode: the names in the code of a function, of what it may read from outside."""

from __future__ import annotations

import dis
import functools
from collections.abc import Sequence
from itertools import pairwise
from types import CodeType
from typing import Any, NamedTuple

CALL = "PRECALL" if "PRECALL" in dis.opmap else "CALL"  # takes the arguments from the stack: the former in Python 3.11
SUBSCRIPTS = ("BINARY_SUBSCR", "STORE_SUBSCR")
# Functions and attributes by which code reads what it names in strings
REFLECTION = {
    "getattr",
    "hasattr",
    "setattr",
    "vars",
    "globals",
    "locals",
    "__dict__",
    "attrgetter",
    "methodcaller",
    "suppress",
}
# Functions and attributes by which it reads attributes that it does not name
UNNAMED_BY_FUNCTION = {"vars", "dir", "getmembers", "asdict", "astuple"}
UNNAMED_BY_ATTRIBUTE = {"__dict__", "__getattribute__", "getmembers", "asdict", "astuple"}


class CodeNames(NamedTuple):
    """The names in the code of a function and its nested functions.

    names        of globals
    attributes   of any object
    elements     for lists and dicts that are only used as name[constant]: name to keys
    reflects     whether it copes with attributes that do not exist: by getattr(), hasattr(), ..., or a `try`
    reads_unnamed   whether it reads attributes that it does not name: by vars(), getattr(x, name), a class pattern, ...
    """

    names: list[str]
    attributes: set[str]
    elements: dict[str, set[Any]]
    reflects: bool
    reads_unnamed: bool


@functools.cache
def names_in(code: CodeType) -> CodeNames:
    names: dict[str, None] = {}
    attributes: set[str] = set()
    elements: dict[str, set[Any]] = {}
    used_whole: set[str] = set()
    texts: list[str] = []
    reflects = reads_unnamed = False
    stack = [code]
    while stack:
        code = stack.pop()
        stack += [c for c in code.co_consts if isinstance(c, CodeType)]
        instructions = [i for i in dis.get_instructions(code) if i.opname not in ("CACHE", "EXTENDED_ARG")]
        reflects = reflects or catches(instructions)
        for i, this in enumerate(instructions):
            if this.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
                names[this.argval] = None
                if this.argval in ("getattr", "hasattr") and not has_constant_name(instructions[i + 1 :]):
                    reads_unnamed = True
            elif this.opname == "MATCH_CLASS":
                reads_unnamed = True
            elif this.opname in ("LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR"):
                attributes.add(this.argval)
            if this.opname in ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_DEREF"):
                key, use = (*instructions[i + 1 : i + 3], this, this)[:2]
                if key.opname == "LOAD_CONST" and (use.opname in SUBSCRIPTS or (use.opname, use.arg) == ("COPY", 2)):
                    elements.setdefault(this.argval, set()).add(key.argval)
                else:
                    used_whole.add(this.argval)
        texts += [c for c in code.co_consts if isinstance(c, str) and c.isidentifier()]
    if REFLECTION & {*names, *attributes}:
        attributes.update(texts)
        names.update(dict.fromkeys(texts))
        reflects = True
    if UNNAMED_BY_FUNCTION & names.keys() or UNNAMED_BY_ATTRIBUTE & attributes:
        reads_unnamed = True
    used_by_key = {name: keys for name, keys in elements.items() if name not in used_whole}
    return CodeNames(list(names), attributes, used_by_key, reflects, reads_unnamed)


def catches(instructions: Sequence[dis.Instruction]) -> bool:
    """Whether code goes on after an exception. A `with` block does so only where __exit__ returns True, `finally` never."""
    opnames = [this.opname for this in instructions]
    continued = sum(a == "POP_EXCEPT" and b != "RERAISE" for a, b in pairwise(opnames))
    return continued > opnames.count("WITH_EXCEPT_START")


def has_constant_name(instructions: Sequence[dis.Instruction]) -> bool:
    """Whether the call that begins here, after its function was loaded, is like getattr(x, "name", ...), with a constant as the
    second argument. False if that is uncertain.
    """
    depth, second, is_computed = 0, None, False
    for this in instructions:
        if this.opname == CALL and this.arg == depth:  # an inner call would have its function on the stack, too
            return depth in (2, 3) and not is_computed and second is not None and isinstance(second.argval, str)
        before = depth
        depth += dis.stack_effect(this.opcode, this.arg, jump=False)
        if depth < 0:
            return False
        if depth <= 1:
            second, is_computed = None, False
        elif before < 2:
            second = this if before == 1 and depth == 2 and this.opname == "LOAD_CONST" else None
        elif depth == 2 < before:
            is_computed = True
    return False
