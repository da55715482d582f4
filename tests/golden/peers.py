"""What PyTorch 2.13 makes of the optimisers, schedules and clip functions in tests/optimisers.py, written to peers.json:

python -m tests.golden.peers        with PyTorch installed; tests only read the file
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests import optimisers as tried

FILE = Path(__file__).with_suffix(".json")


def recorded() -> dict[str, Any]:
    import torch

    found: dict[str, Any] = {"torch": torch.__version__, "optimisers": {}, "groups": {}, "schedules": {}, "lbfgs": {}}

    def tensors(arrays: list[Any]) -> list[Any]:
        return [torch.tensor(a, dtype=torch.float64, requires_grad=True) for a in arrays]

    for case, (kind, options) in tried.CASES.items():
        lazy = options.get("lazy", False)
        if lazy and case != "adam lazy":  # what PyTorch has: SparseAdam, without weight decay
            continue
        if lazy:
            kind, options = "SparseAdam", {key: value for key, value in options.items() if key != "lazy"}
        for where in ("optimisers",) if lazy else ("optimisers", "groups"):
            params = tensors(tried.starts())
            groups: Any = [{"params": params[:1]}, {"params": params[1:], **tried.SECOND}]
            optimiser = getattr(torch.optim, kind)(groups if where == "groups" else params, **options)
            for step in tried.gradients():
                for p, g in zip(params, step, strict=True):
                    g = None if g is None else torch.tensor(g)
                    p.grad = g.to_sparse(1) if lazy and g is not None else g
                optimiser.step()
            found[where][case] = [p.tolist() for p in params]
    schedules = {
        "lambda": lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda t: 1 / (1 + t)),
        "step": lambda o: torch.optim.lr_scheduler.StepLR(o, 3, 0.5),
        "multistep": lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [2, 5], 0.3),
        "exponential": lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.9),
        "cosine": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 14, 0.05),
        "restarts": lambda o: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(o, 3, 2, 0.01),
        "one cycle": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, [0.4, 0.1], 15, cycle_momentum=False),
        "one cycle, straight": lambda o: torch.optim.lr_scheduler.OneCycleLR(
            o, [0.4, 0.1], 15, anneal_strategy="linear", cycle_momentum=False
        ),
        "plateau": lambda o: torch.optim.lr_scheduler.ReduceLROnPlateau(o, "min", 0.5, 2, threshold=0, min_lr=0.15, eps=0),
    }
    for name, make in schedules.items():
        params = tensors(tried.starts())
        optimiser = torch.optim.SGD([{"params": [p], "lr": r} for p, r in zip(params, tried.RATES, strict=True)], lr=1.0)
        schedule = make(optimiser)
        rates = [[g["lr"] for g in optimiser.param_groups]]
        for cost in tried.COSTS[:14]:
            optimiser.step()
            schedule.step(*([cost] if name == "plateau" else []))
            rates.append([g["lr"] for g in optimiser.param_groups])
        found["schedules"][name] = rates
    (w,) = tensors([[-1.2, 1.0]])
    optimiser = torch.optim.LBFGS([w], lr=0.5, max_iter=4, history_size=3)
    places = []
    for _ in range(6):

        def closure() -> Any:
            optimiser.zero_grad()
            loss = tried.rosenbrock(w)
            loss.backward()
            return loss

        places.append([float(optimiser.step(closure)), *w.tolist()])
    found["lbfgs"] = places
    return found


if __name__ == "__main__":
    FILE.write_text(json.dumps(recorded(), indent=1) + "\n")
