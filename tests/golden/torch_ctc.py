"""What PyTorch's CTC loss gives: `python tests/golden/torch_ctc.py`, with PyTorch 2.13, writes torch_ctc.npz beside it.

For each of CASES: `<name>/logits`, `<name>/targets`, `<name>/input_lengths`, `<name>/target_lengths`, `<name>/none`,
`<name>/sum`, `<name>/mean`, and `<name>/grad`, the gradient of the mean with respect to the logits, of which log_softmax is
taken. Where there is no path, losses count as 0 (zero_infinity=True).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

# steps, samples, classes, labels, blank; whether labels come one after the other; whether each sample has its own lengths
CASES = {
    "equal": (9, 3, 5, 3, 0, False, False),
    "lengths": (12, 4, 4, 5, 2, False, True),
    "row": (10, 4, 6, 4, 5, True, True),
    "short": (4, 6, 3, 4, 0, False, True),  # some have no path
    "no_labels": (3, 2, 3, 0, 1, False, False),
}

if __name__ == "__main__":
    arrays: dict[str, np.ndarray] = {}
    for k, (name, (t, n, c, m, blank, row, own)) in enumerate(CASES.items()):
        rng = np.random.default_rng(k)
        targets = rng.choice([i for i in range(c) if i != blank], (n, m))
        steps = rng.integers(t // 2, t + 1, n) if own else np.full(n, t)
        sizes = rng.integers(0, m + 1, n) if own else np.full(n, m)
        if row:
            targets = np.concatenate([line[:size] for line, size in zip(targets, sizes, strict=True)])
        logits = torch.tensor(rng.normal(size=(t, n, c)) * 2, requires_grad=True)
        given = [torch.tensor(a) for a in (targets, steps, sizes)]
        found = {"logits": logits.detach().numpy(), "targets": targets, "input_lengths": steps, "target_lengths": sizes}
        for reduction in ("none", "sum", "mean"):
            loss = torch.nn.functional.ctc_loss(logits.log_softmax(-1), *given, blank, reduction, zero_infinity=True)
            found[reduction] = loss.detach().numpy()
        loss.backward()
        found["grad"] = logits.grad.numpy()
        arrays |= {f"{name}/{key}": value for key, value in found.items()}
    np.savez_compressed(Path(__file__).with_suffix(".npz"), **arrays)
