"""Training by several processes: `mpiexec -n 4 python -m mpi4py train.py`, of a script that calls `init()` first.

Each rank has the whole model, and its part of every batch. What comes of it is that of one process with the whole batch, to
rounding, whatever the number of ranks, the last batch of an epoch included; a part may be empty.

- Loaders (`DataLoader`, `data.batches`, those of `fit` and `evaluate`) give each rank its part of every batch, of one order.
  `predict`, and the estimators, go over all that they are given, on each rank.
- Before an optimiser, or clipping, looks at gradients, they become the mean over the ranks, weighted with the numbers of their
  samples: one sum over ranks a step for each flat array of parameters, in steps that are compiled, too. So a loss has to be a
  mean over the samples. In a loop of one's own that is all there is; `fit` knows what its losses divide by (weights, ignored
  labels, sums), as it does for the history.
- The layers of batch norm take their statistics of the whole batch. Masks of dropout, and what `rand` and `randn` draw with an
  axis of samples in front, are this rank's rows of what one process draws. (Of generators other than PCG64, NumPy's
  default, all is drawn, and most of it left.)
- Parameters begin as the first rank has them, as do the generators of `manual_seed`. In `fit` the first rank alone writes
  checkpoints and logs and says what there is to say; Ctrl-C, and what a callback stops for, holds for all. Open MPI's mpiexec
  kills them half a second after Ctrl-C: a step that takes longer is lost, and training goes on from the last epoch. After
  `kill -USR1` of mpiexec it has its time, and all is saved.
- The same program has to run on all ranks: what differs between them may decide nothing. Inside of `with alone():` a rank does
  something for itself, such as `if rank() == 0:` and an evaluation of all data.

Arrays on GPUs are added up by NCCL, on the stream that computes them, where each rank has a GPU of its own and CuPy finds NCCL
on all of them (`pip install nvidia-nccl-cu13`, or `-cu12`); otherwise through pinned memory and MPI, and the first rank warns
and says why. Neither has run on a GPU yet.

What happens when a rank is lost is said at `init`. Nothing is sent while gradients are still computed: on one machine
that took longer, 202 ms a step instead of 181 with 20 M parameters, 29 instead of 27 with 2.8 M (tests/benchmarks/overlap.py;
`python -m tests.benchmarks.ranks` measures it, with other costs, and has what they come to for 64 ranks).
"""

from tensorgrad.core.ranks import ranks
from tensorgrad.distributed.start import init

__all__ = ["alone", "init", "rank", "size"]

alone = ranks.alone


def rank() -> int:
    """Which of the processes this one is, from 0; 0 where `init` has found no others."""
    return 0 if ranks.group is None else ranks.group.rank


def size() -> int:
    """How many processes there are."""
    return ranks.size
