"""Run by every rank: all that has to come out as in one process; the ranks agree, and the first one writes it.

`mpiexec -n 3 python -m mpi4py -m tests.distributed.everything folder`
"""

from __future__ import annotations

import pickle
import sys
import warnings
from pathlib import Path

import numpy as np

from tensorgrad import distributed
from tensorgrad.core.ranks import ranks
from tests.distributed import fits, optimisers

warnings.simplefilter("error")
distributed.init()
for name, found in (("optimisers", optimisers.everything()), ("fits", fits.everything())):
    for other in ranks.all_gather(found):
        np.testing.assert_equal(other, found, err_msg=f"{name}: ranks differ")
    if distributed.rank() == 0:
        (Path(sys.argv[1]) / f"{name}-{distributed.size()}.pickle").write_bytes(pickle.dumps(found))
