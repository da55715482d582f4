"""Wrong rules and functions. To import this package fills the corpus with them."""

from tests.rates.wrong import (  # noqa: F401
    blind,
    conditional,
    detached,
    factors,
    kinks,
    paths,
    rules,
    second,
    shapes,
    small,
)
