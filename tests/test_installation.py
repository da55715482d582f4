"""What pip installs, by which name, and what `import tensorgrad` says where another project by that name has been installed."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import tensorgrad
from tensorgrad.core import installation

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
HINT = re.compile(r"pip install((?: '[^']+'| [\w.-]*[\w-])+)(?=[^\w']|$)")


def distribution(requirement: str) -> str:
    """ "cupy-cuda13x" of "cupy-cuda13x[ctk]>=14"."""
    return re.match(r"[\w.-]*\w", requirement)[0]


def texts(path: Path) -> Iterator[str]:
    """The strings in a file of Python, an f-string as one, with {} for what is put in."""
    tree = ast.parse(path.read_text())
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)} - {id(tree)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            yield node.value


def hints() -> dict[str, list[str]]:
    """By file and hint, what each message says to install."""
    found = {}
    for folder in ("tensorgrad", "models", "examples"):
        for path in (ROOT / folder).rglob("*.py"):
            for text in texts(path):
                for match in re.finditer("pip install", text):
                    hint = HINT.match(text, match.start())
                    assert hint, f"{path}: cannot read {text[match.start() :]!r}"
                    found[f"{path.relative_to(ROOT)}: {hint[0]}"] = [word.strip("'") for word in hint[1].split()]
    return found


def test_what_messages_say_to_install() -> None:
    """By the names of what is missing, never by an extra of ours: pip would look for the name on the index."""
    assert len(hints()) > 8
    known = {distribution(r) for requirements in EXTRAS.values() for r in requirements} | {"-e", "{}[train,draw]"}
    known.add("torch")  # whose modules are exchanged where somebody has it
    assert PROJECT["name"] in known  # extras may name the project
    for place, words in hints().items():
        assert {w if w.startswith(("-", "{")) else distribution(w) for w in words} <= known - {PROJECT["name"]}, place


def test_what_the_documentation_says_to_install() -> None:
    pages = [ROOT / "README.md", ROOT / ".ci" / "run", ROOT / ".github" / "CONTRIBUTING.md"]
    pages += (ROOT / "examples" / "guide").glob("*.md")
    text = "\n".join(path.read_text() for path in pages)
    found = re.findall(r"pip install (?:--quiet )?(.*?)(?: &&|`|\n)", text)
    assert len(found) > 15
    for what in found:
        names = re.fullmatch(r"-e '\.\[([\w,]+)\]'|--no-deps --target \S+ \.", what)
        assert names, what
        assert set((names[1] or "dev").split(",")) <= EXTRAS.keys()


def test_one_name_and_one_version() -> None:
    assert PROJECT["name"] == tensorgrad.__distribution__ == installation.DISTRIBUTION
    assert "version" not in PROJECT
    own = [r for requirements in EXTRAS.values() for r in requirements if "tensorgrad" in r]
    assert own
    for requirement in own:
        name, extras = re.fullmatch(r"([\w-]+)\[([\w,]+)\]", requirement).groups()
        assert name == PROJECT["name"]
        assert set(extras.split(",")) <= EXTRAS.keys()


def test_what_a_wheel_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every module, the models inside of tensorgrad and nowhere else, and what is no Python, by setuptools' own word."""
    pytest.importorskip("setuptools", minversion="77", reason="needs setuptools: pip install 'setuptools>=77'")
    from setuptools.dist import Distribution

    monkeypatch.chdir(ROOT)
    made = Distribution({"script_name": "setup.py"})
    made.parse_config_files()
    made.set_defaults()
    command = made.get_command_obj("build_py")
    command.ensure_finalized()
    lib = Path(command.build_lib)
    found = {str(Path(path).relative_to(lib)) for path in command.get_outputs(include_bytecode=False)}
    assert made.get_version() == tensorgrad.__version__
    assert made.get_name() == PROJECT["name"]
    there = {
        str(Path("tensorgrad") / path.relative_to(ROOT) if folder == "models" else path.relative_to(ROOT))
        for folder in ("tensorgrad", "models")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert found == there
    assert {
        "tensorgrad/py.typed",
        "tensorgrad/models/py.typed",
        "tensorgrad/core/face.pyi",
        "tensorgrad/draw/page.html",
    } <= found
    assert any(path.endswith(".cu") for path in found)


# Another project by the same name


def site(folder: Path, *, init: str | None, record: str | None) -> Path:
    """A folder of installed packages: this one with another __init__.py, or none, and a record of the other project's."""
    (folder / "tensorgrad").mkdir(parents=True)
    for path in (ROOT / "tensorgrad").iterdir():
        if path.name not in ("__init__.py", "__pycache__"):
            (folder / "tensorgrad" / path.name).symlink_to(path)
    if init is not None:
        (folder / "tensorgrad" / "__init__.py").write_text(init)
    if record is not None:
        (folder / record).mkdir()
        (folder / record / "METADATA").write_text("Metadata-Version: 2.1\nName: tensorgrad\nVersion: 0.3.0\n")
    return folder


def python(code: str, *sites: Path, flags: tuple[str, ...] = ()) -> str:
    """The last line that Python prints for `code`, where `sites` are what is searched first."""
    start = f"import sys; sys.path[:0] = {[str(s) for s in sites]}\n"
    run = subprocess.run([sys.executable, *flags, "-c", start + code], capture_output=True, text=True, cwd="/")
    return (run.stdout + run.stderr).strip().splitlines()[-1]


OWN = (ROOT / "tensorgrad" / "__init__.py").read_text()
OTHER = "class Variable: ...\n"
RECORD = "tensorgrad-0.3.0.dist-info"


@pytest.mark.parametrize(
    ("init", "record", "code", "message"),
    [
        (OWN, RECORD, "import tensorgrad", "there are also files of 'tensorgrad' 0.3.0, another project"),
        (
            OTHER,
            RECORD,
            "from tensorgrad import nn",
            r"the imported file is \S+__init__.py, of 'tensorgrad' 0.3.0, another proj",
        ),
        (OTHER, None, "import tensorgrad.optim", r"the imported file is \S+__init__.py, of 'tensorgrad', another project"),
        (
            None,
            None,
            "from tensorgrad import nn",
            "its __init__.py is gone, as after uninstalling 'tensorgrad', another project",
        ),
    ],
    ids=["this one over the other", "the other over this one", "the other without a record", "the other uninstalled"],
)
def test_two_projects_in_one_folder(tmp_path: Path, init: str | None, record: str | None, code: str, message: str) -> None:
    said = python(code, site(tmp_path, init=init, record=record))
    start = f"tensorgrad.errors.InstallationError: {tmp_path / 'tensorgrad'} holds tensorgrad-numpy, but "
    assert re.match(re.escape(start) + message, said), said
    assert said.endswith("pip uninstall tensorgrad tensorgrad-numpy; then install the one you want, and the other in an "
                         "environment of its own")  # fmt: skip


def test_this_one_alone(tmp_path: Path) -> None:
    """Its own record is none of the other's."""
    folder = site(tmp_path, init=OWN, record="tensorgrad_numpy-0.1.0.dist-info")
    assert python("import tensorgrad; print(tensorgrad.__file__)", folder) == str(folder / "tensorgrad" / "__init__.py")


@pytest.mark.parametrize("code", ["tensorgrad.Variable", "from tensorgrad import Variable"])
def test_a_name_of_the_other_project(code: str) -> None:
    """Alone, this one says which it is."""
    with pytest.raises((AttributeError, ImportError)) as caught:
        exec(code, {"tensorgrad": tensorgrad})
    assert type(caught.value) is (ImportError if "import" in code else AttributeError)
    assert str(caught.value).startswith(
        f"module 'tensorgrad' has no attribute 'Variable'; this is tensorgrad-numpy {tensorgrad.__version__} in "
        f"{Path(tensorgrad.__file__).parent}. To pip 'tensorgrad' is another project"
    )


def test_the_other_project_behind_this_one(tmp_path: Path) -> None:
    behind = tmp_path / "behind"
    (behind / "tensorgrad").mkdir(parents=True)
    (behind / "tensorgrad" / "__init__.py").write_text(OTHER)
    (behind / RECORD).mkdir()
    (behind / RECORD / "METADATA").write_text("Metadata-Version: 2.1\nName: tensorgrad\nVersion: 0.3.0\n")
    said = python("from tensorgrad import Variable", site(tmp_path / "own", init=OWN, record=None), behind)
    assert f"'tensorgrad' 0.3.0 in {behind / 'tensorgrad'} is another project, which this one hides. pip uninstall" in said


def test_names_that_are_asked_for_politely() -> None:
    """hasattr, modules that are not imported yet, and private names are as in any other package."""
    assert not hasattr(tensorgrad, "Variable")
    assert not hasattr(tensorgrad, "__wrapped__")
    assert getattr(tensorgrad, "no_such_thing", 3) == 3
    with pytest.raises(AttributeError, match=r"^module 'tensorgrad' has no attribute '_private'$") as caught:
        tensorgrad._private  # noqa: B018
    assert (caught.value.name, caught.value.obj) == ("_private", tensorgrad)
    assert python("from tensorgrad import testing; print(testing.__name__)", ROOT) == "tensorgrad.testing"
    said = python("import tensorgrad; tensorgrad.draw", ROOT)
    assert "module 'tensorgrad' has no attribute 'draw'; write from tensorgrad import draw" in said


def test_examples_beside_the_other_project(tmp_path: Path) -> None:
    (tmp_path / "tensorgrad").mkdir()
    (tmp_path / "tensorgrad" / "__init__.py").write_text(OTHER)
    said = python("import common", ROOT / "examples", tmp_path, flags=("-S",))
    assert said == (f"It takes tensorgrad-numpy, not tensorgrad: pip uninstall tensorgrad; pip install -e '{ROOT}[train,draw]'")


# Without any extra

ALONE = """
import importlib.metadata, sys
kept = {"numpy", "graphviz", "tensorgrad"}
for name in importlib.metadata.packages_distributions():
    if name not in kept and not name.startswith(("_", "tensorgrad")):
        sys.modules[name] = None  # which cannot be imported
sys.modules.update(dict.fromkeys(("cupy", "cupyx", "numba", "scipy", "sklearn", "matplotlib", "pygraphviz")))
import numpy as np
import tensorgrad
from tensorgrad import Tensor, data, draw, nn, ops, optim, testing, train
from tensorgrad.nn import functional as F
x = np.random.default_rng(0).normal(size=(60, 4)).astype("float32")
y = (x[:, 0] > 0).astype(int)
"""
NOWHERE = """
import os, tempfile
os.environ |= {"PATH": "", "TENSORGRAD_DATA": "", "TENSORGRAD_CACHE": tempfile.mkdtemp()}
"""
TRAINS = """
model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 2))
found = train.fit(model, F.cross_entropy, optim.Adam(model.parameters(), lr=0.05), (x, y), 20)
assert found["loss"][-1] < 0.5 * found["loss"][0], found
assert (train.predict(model, x).argmax(1) == y).mean() > 0.9
loss = F.cross_entropy(model(Tensor(x)), y)
assert "flowchart" in draw.graph(loss).to_mermaid() and str(draw.graph(loss))
testing.gradcheck(lambda w: (w * w).sum(), (np.ones(3),))
other = {module.partition(".")[0] for module in sys.modules if sys.modules[module] is not None}
print("foreign:", *sorted(other & set(importlib.metadata.packages_distributions()) - kept - {"_distutils_hack"}))
"""


def test_the_core_alone() -> None:
    """It trains, draws and checks with NumPy and the graphviz package, and nothing else."""
    assert python(ALONE + TRAINS, ROOT) == "foreign:"


@pytest.mark.every(3)
@pytest.mark.parametrize(
    ("call", "missing"),
    [
        ("data.load_digits()", "scikit-learn"),
        ("data.load_kmnist()", "pooch tqdm"),
        ("from tensorgrad.models import MLPClassifier", "'scikit-learn>=1.7'"),
        ("draw.curves({'loss': [1.0, 0.5]})", "matplotlib"),
        ("draw.graph(Tensor(x, requires_grad=True).sum()).save(tempfile.mkdtemp() + '/x.svg')", "pygraphviz"),
        ("Tensor(x, dtype='bfloat16')", "ml_dtypes"),
        ("Tensor(x, device='cuda')", r"'cupy-cuda1\dx\[ctk\]'"),
        (
            "train.fit(m := nn.Linear(4, 2), F.cross_entropy, optim.SGD(m.parameters(), lr=0.1), (x, y), 1, progress=True)",
            "tqdm",
        ),
        ("import tensorgrad.testing.strategies", "hypothesis"),
    ],
)
def test_what_is_missing_is_named(call: str, missing: str) -> None:
    said = python(f"{NOWHERE}{ALONE}{call}", ROOT)
    assert re.match(rf"tensorgrad.errors.MissingDependencyError: .*pip install {missing}", said), said
