"""Pages of one file: a template that lies beside the code, with the data that its script draws from put into it."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any


def filled(package: str, name: str, data: Any, **parts: str) -> str:
    """The template of that name in a package, with its DATA and other parts, which stand there as /*NAME*/.

    Names in the data cannot end the script that they stand in. Numbers have to be finite.
    """
    page = resources.files(package).joinpath(name).read_text("utf-8")
    for part, content in parts.items():
        page = page.replace(f"/*{part}*/", content)
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for sign in "&<>\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return page.replace("/*DATA*/null", text)
