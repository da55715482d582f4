"""Schemas of nested dicts, lists, arrays, numbers and text.

A form is a Kind; a dict of names to forms, which must match exactly except for optional ones, marked OptionalKey(form); Each,
for any names; [form], a list of any length; or Maybe(form), which allows None. `problems` describes mismatches in words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from tensorgrad.core.backend import is_array


class Kind(NamedTuple):
    """A value other than dict and list: its description, and a test."""

    words: str
    holds: Callable[[Any], bool]


class Each(NamedTuple):
    """A dict of text to values of this form; keys in `required` must exist."""

    form: Any
    required: Mapping[str, Any] = {}


class Maybe(NamedTuple):
    """A value of this form, or None."""

    form: Any


class OptionalKey(NamedTuple):
    """A value of this form that may be missing in a dict."""

    form: Any


def is_integer(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    return is_integer(value) or isinstance(value, (float, np.floating))


ANYTHING = Kind("anything", lambda value: True)
INTEGER = Kind("an integer", is_integer)
COUNT = Kind("a non-negative integer", lambda value: is_integer(value) and value >= 0)
NUMBER = Kind("a number", is_number)
FLAG = Kind("True or False", lambda value: isinstance(value, (bool, np.bool_)))
TEXT = Kind("text", lambda value: isinstance(value, str))
ARRAY = Kind("a numeric array", lambda value: is_array(value) and value.dtype.kind in "biufV")
FLOAT_ARRAY = Kind("a floating-point array", lambda value: is_array(value) and value.dtype.kind in "fV")
FLOAT64_ARRAY = Kind("a float64 array", lambda value: is_array(value) and value.dtype == np.float64)
INTEGER_ARRAY = Kind("an integer array", lambda value: is_array(value) and value.dtype.kind in "iu")


def problems(value: Any, form: Any, where: str = "") -> list[str]:
    """The mismatches between a value and a form, each with its path."""
    if isinstance(form, Maybe):
        return [] if value is None else problems(value, form.form, where)
    label = where or "it"
    if isinstance(form, Kind):
        return [] if form.holds(value) else [f"{label} is {described(value)}, expected {form.words}"]
    if isinstance(form, list):
        if not isinstance(value, (list, tuple)):
            return [f"{label} is {described(value)}, expected a list"]
        return [problem for i, v in enumerate(value) for problem in problems(v, form[0], joined_path(where, i))]
    if not isinstance(value, Mapping):
        return [f"{label} is {described(value)}, expected a dict"]
    expected: Mapping[str, Any] = form.required if isinstance(form, Each) else form
    mismatches = []
    for name, inner_form in expected.items():
        if name in value:
            mismatches += problems(
                value[name], inner_form.form if isinstance(inner_form, OptionalKey) else inner_form, joined_path(where, name)
            )
        elif not isinstance(inner_form, OptionalKey):
            mismatches.append(f"{joined_path(where, name)} is missing")
    for name, v in value.items():
        if name in expected:
            continue
        if not isinstance(form, Each) or not isinstance(name, str):
            mismatches.append(f"{joined_path(where, name)} is unknown")
        else:
            mismatches += problems(v, form.form, joined_path(where, name))
    return mismatches


def joined_path(where: str, name: Any) -> str:
    """The path of a named or numbered item."""
    name = name if isinstance(name, (str, int)) else repr(name)
    return f"{where}/{name}" if where else f"{name}"


def described(value: Any) -> str:
    """A value for a message: itself if short, else its type."""
    if isinstance(value, (bool, int, float, str, type(None))) and len(text := repr(value)) <= 40:
        return text
    return f"an array {value.shape} {value.dtype}" if is_array(value) else f"a {type(value).__name__}"


def form_of(value: Any, arrays: Kind = ARRAY) -> Any:
    """The form of a value, with the same names and kinds; lists of any length, with items like the first."""
    if isinstance(value, (bool, np.bool_)):
        return FLAG
    if is_integer(value):
        return INTEGER
    if is_number(value):
        return NUMBER
    if isinstance(value, str):
        return TEXT
    if isinstance(value, Mapping):
        return {name: form_of(v, arrays) for name, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [form_of(value[0], arrays) if value else ANYTHING]
    return arrays if is_array(value) else ANYTHING


INTEGER_LIST = Kind(  # lists from JSON
    "an integer array or a list of integers",
    lambda value: INTEGER_ARRAY.holds(value) or (isinstance(value, list) and all(map(is_integer, value))),
)

# NumPy reads these without checks
POSITIONS = {"pos": 624, "buffer_pos": 4}


def generator_problems(rng: np.random.Generator, values: Any, where: str = "") -> list[str]:
    """The reasons why the state of a NumPy generator cannot be set, tested on another generator of its kind."""
    generator = rng.bit_generator
    kind, label = type(generator).__name__, where or "it"
    if isinstance(values, Mapping) and isinstance(values.get("bit_generator"), str) and values["bit_generator"] != kind:
        return [f"{label}: the state of a {values['bit_generator']}, expected the state of a {kind}"]
    if faults := problems(values, form_of(generator.state, INTEGER_LIST), where):
        return faults
    for name, maximum in POSITIONS.items():
        for inner in (values, values["state"]):
            if name in inner and not 0 <= inner[name] <= maximum:
                return [f"{label}: not a state of a {kind}: {name} is {inner[name]}, expected 0 to {maximum}"]
    trial = type(generator)()
    try:
        trial.state = values
    except (ValueError, TypeError, KeyError, OverflowError, IndexError) as error:
        return [f"{label}: not a state of a {kind}: {error}"]
    return [] if is_equal(trial.state, values) else [f"{label}: not a state of a {kind}: numbers are out of range"]


def is_equal(a: Any, b: Any) -> bool:
    """Whether two nested values are equal."""
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(is_equal(a[name], b[name]) for name in a)
    return np.array_equal(a, b) if is_array(a) else bool(a == b)
