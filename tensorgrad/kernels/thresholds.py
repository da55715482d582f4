"""Where one way of computing begins to be faster than another: every such number of the package, in one place.

Measured on two cores with AVX-512 and 2 MiB of second-level cache each (Intel Xeon, NumPy 2.4 with OpenBLAS, Numba 0.68), with
`python -m tests.benchmarks.thresholds`, which prints them again for another machine. They are sizes at which the two ways take
about equally long; being wrong by a factor of two costs little. NETWORK is of GPUs, where
`python -m tests.gpu.kernels` measures it.
"""

SLICE = 16_384  # elements of an array worked off at a time by a chain of NumPy calls, so that all of its arrays stay in cache
CHAIN_THREADS = 524_288  # elements from which a chain is split between threads
ROWS_FLOPS = 1e9  # floating-point operations from which the samples of a compiled step are split between threads
ROWS_BYTES = 2 << 20  # so large is the widest value of the samples that a thread works off at a time
ROWS_TOTALS = 1 << 20  # bytes of what is added up over the samples that threads may each have, however few the samples are
CHAIN = 32  # so many functions at most become one kernel: to compile one takes longer than in proportion to its length
COLUMN = 8_192  # so many rows of a column sum are added up one after the other; more in parts, for rounding errors grow with it
ONES_PRODUCT = 8_192  # elements from which a column sum is faster as a product with ones
MIDDLE = 512  # numbers up to which a row is too short for NumPy's steps, where rows in the middle of three axes are added up
ROW_SUM = 64  # numbers up to which a row is too short for NumPy's sum, which begins anew for each
DOT = 65_536  # so many elements of a sum of products are left to BLAS, whose rounding errors grow with their number
BLAS = 4_096  # elements below which BLAS uses one thread, however many it may: OpenBLAS for products of up to 64³ steps
KERNEL = 4_096  # elements from which a rule asks for a kernel where NumPy has the function too
ADD_ROWS = 128  # numbers from which a kernel adds rows to a table's: NumPy needs several calls, and takes them number by number
TOGETHER = 16_384  # numbers per parameter, on average, up to which an eager step copies all gradients together for one update
TABLE = 2  # so many times more rows a table has than a step reads, for those alone to be changed
FIRST = 4  # so many times more numbers behind an axis than there are along it: its largest are found by comparing whole rows
CLASSES = 128  # up to so many classes a loop over rows of scores beats NumPy's calls, whose sums take 8 or 16 at once
ATTENTION = 262_144  # scores, of some queries to all keys, that are there at once: 1 MiB of float32, so that they stay in cache
PLAN_FLOPS = 1e8  # floating-point operations of a plan from which it has BLAS to itself, and its products are shared, too
PRODUCT = 4e6  # of a product from which such a plan shares it
SHARES = 131_072  # scores, gates of all steps or elements of windows from which samples are split between threads
SHARED_FLOPS = 4e6  # floating-point operations of a plan from which its machine code is shared among threads
SHARED_PRODUCT = 2.5e5  # of a product from which it is shared in machine code
SHARED_CHAIN = 32_768  # elements times functions from which a chain is shared in machine code
SHARED_GATHER = 65_536  # bytes of a batch from which its samples are gathered by several threads
NETWORK: int | None = None  # samples from which a perceptron on a GPU is one kernel; None, for no GPU has shown that it gains
NATIVE = 1  # kernels and products one after the other from which they are run without Python in between
