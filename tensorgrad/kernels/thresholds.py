"""Sizes at which one way of computing becomes faster than another: all such numbers of the package.

Measured on two cores with AVX-512 and 2 MiB of second-level cache each (Intel Xeon, NumPy 2.4 with OpenBLAS, Numba 0.68), with
`python -m tests.benchmarks.thresholds`, which measures them on another machine. At these sizes both ways take about the same
time; an error of a factor of two costs little. NETWORK is for GPUs, where `python -m tests.gpu.kernels` measures it.
"""

SLICE = 16_384  # elements per slice in a chain of NumPy calls, so that its arrays stay in cache
CHAIN_THREADS = 524_288  # elements from which a chain is split between threads
ROWS_FLOPS = 1e9  # floating-point operations from which the samples of a compiled step are split between threads
ROWS_BYTES = 2 << 20  # bytes of the widest value of the samples that a thread processes at a time
ROWS_TOTALS = 1 << 20  # bytes of the sums over samples that threads may each have, however few the samples are
CHAIN = 32  # maximum functions per kernel: compile time grows faster than its length
COLUMN = 8_192  # rows of a column sum added sequentially; more are added in parts, because rounding errors grow
ONES_PRODUCT = 8_192  # elements from which a column sum is faster as a product with ones
MIDDLE = 512  # elements up to which a row is too short for NumPy, in a sum over the middle one of three axes
ROW_SUM = 64  # elements up to which a row is too short for NumPy's sum, which has a fixed cost per row
DOT = 65_536  # elements of a dot product left to BLAS, whose rounding errors grow with their number
BLAS = 4_096  # elements below which BLAS uses one thread in any case: OpenBLAS for products of up to 64³ steps
KERNEL = 4_096  # elements from which a rule uses a kernel instead of a NumPy function
ADD_ROWS = 128  # elements from which a kernel adds rows to a table: NumPy needs several calls and adds element by element
TOGETHER = 16_384  # elements per parameter, on average, up to which an eager step gathers all gradients for one update
TABLE = 2  # ratio of a table's rows to those that a step reads, from which only those are updated
FIRST = 4  # ratio of the elements after an axis to those along it, from which maxima are found by comparing whole rows
CLASSES = 128  # classes up to which a loop over rows of scores is faster than NumPy's vectorised sums
ATTENTION = 262_144  # scores, of some queries for all keys, in memory at once: 1 MiB of float32, so that they stay in cache
PLAN_FLOPS = 1e8  # floating-point operations of a plan from which BLAS is single-threaded and products are split, too
PRODUCT = 4e6  # floating-point operations of a product from which such a plan splits it
SHARES = 131_072  # scores, gates of all steps or elements of windows from which samples are split between threads
SHARED_FLOPS = 4e6  # floating-point operations of a plan from which its machine code is shared among threads
SHARED_PRODUCT = 2.5e5  # floating-point operations of a product from which it is shared in machine code
SHARED_CHAIN = 32_768  # elements times functions from which a chain is shared in machine code
SHARED_GATHER = 65_536  # bytes of a batch from which its samples are gathered by several threads
NATIVE = 1  # consecutive kernels and products from which they run without Python in between
NETWORK: int | None = None  # samples from which a perceptron on a GPU is one kernel; None: no GPU has shown a gain yet
