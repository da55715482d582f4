"""The verdicts of a check, from best to worst, as words and as codes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, TypeAlias

import numpy as np

from tensorgrad.core.backend import Array

Verdict: TypeAlias = Literal["ok", "kink", "precision", "wrong", "differs", "non-finite", "nondeterministic"]

# A matrix of verdicts stores indices into this: a byte each instead of a word of 64
VERDICTS: tuple[Verdict, ...] = ("ok", "kink", "precision", "wrong", "differs", "non-finite", "nondeterministic")
CODES: dict[str, int] = {verdict: code for code, verdict in enumerate(VERDICTS)}


def coded(verdicts: Any) -> Array:
    """Verdicts as indices into VERDICTS, uint8, of the same shape: words are converted, indices returned unchanged."""
    verdicts = np.asarray(verdicts)
    if verdicts.dtype.kind in "ui":
        return verdicts
    words, places = np.unique(verdicts, return_inverse=True)
    return np.array([CODES[str(word)] for word in words], np.uint8)[places].reshape(verdicts.shape)


def worst(verdicts: Iterable[str] | Array) -> Verdict:
    """The worst of several verdicts, words or indices into VERDICTS; "ok" if there are none."""
    if isinstance(verdicts, np.ndarray):
        return VERDICTS[int(coded(verdicts).max(initial=0))]
    return VERDICTS[max((CODES[word] for word in verdicts), default=0)]
