"""Where one way of computing begins to be faster than another: every such number of the package, in one place.

Measured on two cores with AVX-512 and 2 MiB of second-level cache each (Intel Xeon, NumPy 2.4 with OpenBLAS, Numba 0.68), with
`python -m tests.benchmarks.thresholds`, which prints them again for another machine. They are sizes at which the two ways take
about equally long; being wrong by a factor of two costs little.
"""

SLICE = 16_384  # elements of an array worked off at a time by a chain of NumPy calls, so that all of its arrays stay in cache
CHAIN_THREADS = 1_000_000  # elements from which a chain is split between threads
ROWS_FLOPS = 300e6  # floating-point operations from which the samples of a compiled step are split between threads
ROWS = 1024  # samples that a thread works off at a time in a compiled step
ONES_PRODUCT = 2_048  # elements from which a column sum is faster as a product with ones
KERNEL = 16_384  # elements from which a rule asks for a kernel where NumPy has the function too
