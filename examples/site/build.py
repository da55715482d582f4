"""Build the site: `python examples/site/build.py` leaves it in build/site/html, from build/site/html/index.html on.

The pages of examples/guide are run, so that their pictures are there; the gallery's programs are drawn while they train for a
few steps; the API reference is written from the docstrings. Sphinx then makes HTML of it all, and a warning is an error.
`--no-gallery` leaves the gallery's pictures out. What has not changed since the last time is not made again.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import chapters
import gallery
import reference

ROOT = chapters.EXAMPLES.parent
SITE = Path(__file__).resolve().parent
OUT = ROOT / "build" / "site"
SOURCE = OUT / "source"  # what Sphinx reads


def write(path: Path, text: str) -> None:
    """Leave a file alone that has this text already: Sphinx goes by its time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def wrapped(text: str) -> str:
    """The text of a page with its long messages in blocks that wrap; tables are left to scroll."""

    def block(match: re.Match[str]) -> str:
        is_message = "   " not in match[1] and any(len(line) > 100 for line in match[1].splitlines())
        return f"```{{code-block}} text\n:class: message\n\n{match[1]}```" if is_message else match[0]

    return re.sub(r"^```text\n(.*?)^```$", block, text, flags=re.DOTALL | re.MULTILINE)


def pictures_folder(page: Path) -> Path:
    """Where a page is run and leaves its pictures: a folder of its own, because two pages may save files of the same name."""
    return (SOURCE if page.name == "index.md" else SOURCE / "guide") / page.stem


def with_pictures(page: Path) -> str:
    """The text of a page, with its pictures looked up in its folder."""
    text = page.read_text()
    for name in chapters.pictures(page):
        text = text.replace(f"]({name})", f"]({page.stem}/{name})").replace(f'src="{name}"', f'src="{page.stem}/{name}"')
    return text


def assemble() -> None:
    """The tree that Sphinx reads: index.md, guide/, gallery/, api/. Links of the repository become links of the site."""
    for page in chapters.guide():
        text = wrapped(with_pictures(page))
        if page.name == "index.md":
            text = text.replace("../guide/", "guide/").replace("../gallery/README.md", "gallery/index.md")
            write(SOURCE / "index.md", text.replace("](reference.py)", "](api/index.rst)"))
        else:
            text = text.replace("../gallery/README.md", "../gallery/index.md")
            write(SOURCE / "guide" / page.name, text.replace("](../site/reference.py)", "](../api/index.rst)"))
    write(SOURCE / "api" / "index.rst", "")
    for name, text in reference.pages().items():
        write(SOURCE / "api" / name, text)
    for name, text in gallery.pages().items():
        write(SOURCE / "gallery" / name, text)


def digest(script: Path) -> str:
    """What the pictures of a script are made of: its text, the package's and that of the programs which run it."""
    files = [script, SITE / "chapters.py", SITE / "gallery.py"]
    files += [*sorted((ROOT / "tensorgrad").rglob("*.py")), *sorted((ROOT / "models").rglob("*.py"))]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def done(script: Path) -> Path:
    """The file that says of what text of a script the pictures are."""
    return OUT / "done" / script.stem


def make_pictures(program: str, scripts: list[Path], folder: Path) -> str | None:
    """Run a program of this folder that leaves the pictures of some scripts in a folder; its error, if it fails."""
    folder.mkdir(parents=True, exist_ok=True)
    env = {**os.environ, "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, str(SITE / program), str(folder), *map(str, scripts)]
    ran = subprocess.run(command, capture_output=True, text=True, env=env)
    if ran.returncode:
        return f"{' '.join(command)}:\n{ran.stdout}{ran.stderr}"
    for script in scripts:
        write(done(script), digest(script))
    return None


def run_all(with_gallery: bool) -> list[str]:
    """Everything that makes pictures and has not been made of the present text, two processes at a time; the errors."""

    def changed(scripts: list[Path]) -> list[Path]:
        return [script for script in scripts if not done(script).exists() or done(script).read_text() != digest(script)]

    shown = [page for page in chapters.guide() if chapters.pictures(page)]
    missing = [page for page in shown if not all((pictures_folder(page) / name).exists() for name in chapters.pictures(page))]
    pages = sorted({*missing, *changed(shown)})
    for page in pages:  # a checkpoint of the last build would be resumed
        shutil.rmtree(pictures_folder(page), ignore_errors=True)
    # a process for each page, whose names are its own; the gallery's programs in two, which import but once
    jobs = [("chapters.py", [page], pictures_folder(page)) for page in pages]
    if with_gallery:
        programs = changed(gallery.scripts())
        jobs += [("gallery.py", half, SOURCE / "gallery") for half in (programs[::2], programs[1::2]) if half]
    with ThreadPoolExecutor(2) as pool:
        return [error for error in pool.map(lambda job: make_pictures(*job), jobs) if error]


def check_inventory(html: Path) -> None:
    """Every public name has its place in the index that other projects link by."""
    *_, packed = (html / "objects.inv").read_bytes().split(b"\n", 4)  # after four lines of text
    listed = set(re.findall(r"^(\S+) py:", zlib.decompress(packed).decode(), re.MULTILINE))
    missing = {name for page in reference.pages().values() for name in reference.listed(page)} - listed
    if missing:
        sys.exit(f"not in the built reference: {sorted(missing)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-gallery", action="store_true", help="leave the gallery's pictures out")
    args = parser.parse_args()
    start = time.perf_counter()
    assemble()
    errors = run_all(not args.no_gallery)
    if errors:
        sys.exit("\n".join(errors))
    gallery.leave_out_missing(SOURCE / "gallery")
    extra = OUT / "extra"  # pages that others show in a frame
    shutil.rmtree(extra, ignore_errors=True)
    for path in (SOURCE / "guide").glob("*/*.html"):
        copy = extra / path.relative_to(SOURCE)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    html = OUT / "html"
    shutil.rmtree(html, ignore_errors=True)  # pages of earlier builds
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-q",
        "-a",
        "-W",
        "--keep-going",
        "-j2",
        "-c",
        str(SITE),
        "-d",
        str(OUT / "doctrees"),
    ]
    if subprocess.run([*command, f"-Dhtml_extra_path={extra}", str(SOURCE), str(html)]).returncode:
        sys.exit("Sphinx found something: see above")
    check_inventory(html)
    count = len(list(html.rglob("*.html")))
    shown = re.sub(f"^{re.escape(os.getcwd())}/", "", str(html / "index.html"))
    print(f"{count} pages in {time.perf_counter() - start:.0f} s: {shown}")


if __name__ == "__main__":
    main()
