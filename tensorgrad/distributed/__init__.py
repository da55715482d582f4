"""Data-parallel training with several processes: `mpiexec -n 4 python -m mpi4py train.py`; the script calls `init()` first.

Each rank has the whole model and a part of every batch. The result is that of one process with the whole batch, up to rounding,
for any number of ranks, including the last batch of an epoch; a part may be empty.

- Loaders (`DataLoader`, `data.batches`, those of `fit` and `evaluate`) shuffle in the same order on all ranks and give each
  rank its part of every batch. `predict` and the estimators process all of their data on each rank.
- Before an optimiser or gradient clipping reads the gradients, they are averaged over the ranks, weighted by the number of
  samples: one all-reduce per step and flat array of parameters, in compiled steps as well. So the loss must be a mean over the
  samples. A custom training loop needs nothing else; `fit` knows what its losses divide by (weights, ignored labels, sums),
  also for the history.
- Batch norm uses the statistics of the whole batch. Dropout masks, and what `rand` and `randn` draw with the samples as first
  axis, are this rank's rows of what one process would draw. (Generators other than PCG64, NumPy's default, draw everything and
  discard the rest.)
- Initial parameters, and the generators of `manual_seed`, are those of the first rank. In `fit` only the first rank writes
  checkpoints and logs and prints; Ctrl-C and stops by a callback apply to all ranks. Open MPI's mpiexec kills its processes
  half a second after Ctrl-C: a longer step is lost, and training resumes from the last epoch. `kill -USR1` of mpiexec leaves
  enough time to save everything.
- All ranks must run the same program: values that differ between ranks must not decide anything. Inside `with alone():` a rank
  can work on its own, for example `if rank() == 0:` and an evaluation of all data.

Arrays on GPUs are summed by NCCL, on the stream that computes them, if each rank has its own GPU and CuPy finds NCCL on all of
them (`pip install nvidia-nccl-cu13`, or `-cu12`); otherwise through pinned memory and MPI, with a warning by the first rank
that says why. Neither has run on a GPU yet.

`init` describes what happens when a rank is lost. Communication does not overlap with the backward pass: on one machine that
was slower, 202 ms per step instead of 181 with 20 M parameters, 29 instead of 27 with 2.8 M (tests/benchmarks/overlap.py;
`python -m tests.benchmarks.ranks` measures it, with other costs, and extrapolates to 64 ranks).
"""

from tensorgrad.core.ranks import ranks
from tensorgrad.distributed.start import init

__all__ = ["alone", "init", "rank", "size"]

alone = ranks.alone


def rank() -> int:
    """The number of this process, counted from 0; 0 if `init` found no others."""
    return 0 if ranks.group is None else ranks.group.rank


def size() -> int:
    """The number of processes."""
    return ranks.size
