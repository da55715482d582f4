"""Self-contained pages: a template with the data of its script filled in."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any


def filled(package: str, name: str, data: Any, **parts: str) -> str:
    """Fill in DATA and other parts of a package's template, in place of /*NAME*/.

    Data cannot end the script that contains them. Numbers must be finite.
    """
    page = resources.files(package).joinpath(name).read_text("utf-8")
    for part, content in parts.items():
        page = page.replace(f"/*{part}*/", content)
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for sign in "&<>\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return page.replace("/*DATA*/null", text)
