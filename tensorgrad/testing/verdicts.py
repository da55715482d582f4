"""The verdicts of a check, from the best to the worst, as words and as small numbers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, TypeAlias

import numpy as np

from tensorgrad.core.backend import Array

Verdict: TypeAlias = Literal["ok", "kink", "precision", "wrong", "differs", "non-finite", "nondeterministic"]

# A matrix of verdicts holds their places in here: a byte for each, where a word would take 64
VERDICTS: tuple[Verdict, ...] = ("ok", "kink", "precision", "wrong", "differs", "non-finite", "nondeterministic")
CODES: dict[str, int] = {verdict: code for code, verdict in enumerate(VERDICTS)}


def coded(verdicts: Any) -> Array:
    """Verdicts as their places in VERDICTS, uint8, of the same shape: from words; places are taken as they are."""
    verdicts = np.asarray(verdicts)
    if verdicts.dtype.kind in "ui":
        return verdicts
    words, places = np.unique(verdicts, return_inverse=True)
    return np.array([CODES[str(word)] for word in words], np.uint8)[places].reshape(verdicts.shape)


def worst(verdicts: Iterable[str] | Array) -> Verdict:
    """The verdict that matters most among several, words or places in VERDICTS; "ok" if there are none."""
    if isinstance(verdicts, np.ndarray):
        return VERDICTS[int(coded(verdicts).max(initial=0))]
    return VERDICTS[max((CODES[word] for word in verdicts), default=0)]
