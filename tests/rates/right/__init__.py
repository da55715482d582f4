"""Right functions at hostile points. To import this package fills the corpus with them."""

from tests.rates.right import algebra, kinks, models, scales  # noqa: F401
