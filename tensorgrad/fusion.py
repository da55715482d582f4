"""Fusion: patterns of recorded nodes are replaced by one op with a closed formula before the reverse walk.

::

    with tensorgrad.fusion.off():  # every op is evaluated and differentiated on its own
        loss.backward()
"""

from tensorgrad.autograd.fusion import PATTERNS, fused, match, off, on

__all__ = ["PATTERNS", "fused", "match", "off", "on"]
