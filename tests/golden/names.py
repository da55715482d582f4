"""Writes names.txt: what PyTorch documents, one line for each place. Needs PyTorch: `python tests/golden/names.py`.

Documented is what has a docstring that shows how it is called. NumPy's names are asked of the NumPy that is installed.
"""

from __future__ import annotations

import inspect
import types
import warnings
from pathlib import Path
from typing import Any


def documented(owner: Any, names: list[str]) -> list[str]:
    found = []
    for name in names:
        member = getattr(owner, name)
        text = inspect.getdoc(member) or ""
        is_shown = f"{name}(" in text[:400] or "Args" in text or isinstance(member, property) or "alias" in text.lower()
        if is_shown and not isinstance(member, (type, types.ModuleType)):
            found.append(name)
    return found


def classes(module: Any) -> list[str]:
    home = module.__name__
    return [
        n for n in dir(module) if n[0].isupper() and inspect.isclass(m := getattr(module, n)) and m.__module__.startswith(home)
    ]


def main() -> None:
    warnings.simplefilter("ignore")
    import torch

    named = {
        "torch": documented(torch, sorted(n for n in torch.__all__ if n[0] != "_")),
        "Tensor": documented(torch.Tensor, [n for n in dir(torch.Tensor) if n[0] != "_"]),
        "nn": classes(torch.nn),
        "functional": documented(torch.nn.functional, [n for n in dir(torch.nn.functional) if n[0] != "_"]),
        "optim": classes(torch.optim),
        "lr_scheduler": classes(torch.optim.lr_scheduler),
        "linalg": documented(torch.linalg, [n for n in dir(torch.linalg) if n[0] != "_"]),
    }
    lines = [f"{place}: {' '.join(names)}\n" for place, names in named.items()]
    Path(__file__).with_name("names.txt").write_text("".join(lines))


if __name__ == "__main__":
    main()
