"""Many programs, in processes of their own that may crash or hang, and what came of them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import selectors
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import tensorgrad as tg
from tests.fuzz.between import NUMBERS
from tests.fuzz.compare import NAMED, Verdict, check
from tests.fuzz.generate import generate
from tests.fuzz.program import Program
from tests.fuzz.shrink import kind_of, shrink
from tests.fuzz.world import RESULTS, run

ROOT = Path(__file__).resolve().parents[2]
LIFE = 1000  # programs after which a process makes room for another: what is compiled stays in memory
MEMORY = 6 << 30  # bytes that a process may have: a program that needs more fails by itself
PATIENCE = 120.0  # seconds without a word from a process, after which it hangs
FROZEN = "numbers and Python objects from outside stay what they were"
SHRINKS = 12  # how many differences of one kind are made small; later ones are counted


@dataclass
class Summary:
    """What came of a hunt.

    counts       programs by what came of them
    refused      refusals by their message, without its numbers, and the seed of one
    plain        seeds of programs without a habit that were refused
    never        seeds of programs that were never replayed, without a word
    differences  the ones found, as dicts: seed, kind, what they are, the script
    """

    numba: bool
    counts: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    differences: list[dict[str, Any]] = field(default_factory=list)
    calls: int = 0
    replays: int = 0
    never: list[int] = field(default_factory=list)
    plain: list[int] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, word: dict[str, Any]) -> None:
        """One word of a process about one program."""
        self.counts["programs"] += 1
        self.counts[word["kind"]] += 1
        self.calls += word["calls"]
        self.replays += max(word["calls"] - word["ran"], 0)
        if word["rounded"]:
            self.counts["rounded"] += 1
        if word["kind"] == "refused":
            self.refused[template(word["what"])] += 1
            self.plain += [word["seed"]] * (not word["tags"])
            self.counts["refused without a line"] += not NAMED.search(word["what"])
        if word["kind"] == "same" and word["ran"] >= word["calls"] > 4 and not word["warned"]:
            self.never.append(word["seed"])
        if word["kind"] == "different":
            self.differences.append(word)

    def kinds(self) -> dict[tuple[str, str], list[dict[str, Any]]]:
        """The differences put together that are alike, the most frequent ones first."""
        found: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for word in self.differences:
            beside = "" if word["what"].startswith(("error", "fault")) else word.get("with", "not made small")
            found.setdefault((template(word["what"]), beside), []).append(word)
        return dict(sorted(found.items(), key=lambda item: -len(item[1])))

    def __str__(self) -> str:
        n, c = max(self.counts["programs"], 1), self.counts
        lines = [
            f"{'with' if self.numba else 'without'} Numba: {c['programs']} programs in {self.seconds:.0f} s "
            f"({c['programs'] / max(self.seconds, 1e-9):.1f} a second), {self.replays} of {self.calls} calls replayed",
            f"same {c['same']} ({c['rounded']} to ill-conditioned rounding), refused {c['refused']} ({c['refused'] / n:.0%}; "
            f"{c['refused without a line']} without a line), different {c['different']}, failing by themselves {c['invalid']}, "
            f"frozen as documented {c['documented']}, never replayed, without a word {len(self.never)}",
        ]
        if self.refused:
            lines += ["", "Refused:", *(f"{count:6}  {message}" for message, count in self.refused.most_common(40))]
        if self.plain:
            lines += ["", f"Refused without a habit: {len(self.plain)}, seeds {' '.join(map(str, self.plain[:30]))}"]
        if self.never:
            lines += ["", f"Never replayed: {' '.join(map(str, self.never[:30]))}"]
        if self.differences:
            lines += ["", "Different:"]
            for (what, beside), words in self.kinds().items():
                seeds = " ".join(str(word["seed"]) for word in words[:8])
                of = min((word["of"] for word in words if "of" in word), key=len, default="")
                lines.append(
                    f"{len(words):6}  " + " | ".join(filter(None, dict.fromkeys([what, beside, of, f"seeds {seeds}"])))
                )
        return "\n".join(lines)


def template(message: str) -> str:
    """A message without its numbers, names of files and quoted things."""
    message = re.sub(r"[\w/<>.-]+\.py:\d+", "LINE", message.split("\n")[0])
    return re.sub(r"\d+(\.\d+)?(e[-+]\d+)?", "#", re.sub(r"\([\d, ]*\)", "(...)", message))[:150]


# One process


def work(first: int, stride: int, numba: bool, seconds: float, shrinks: int) -> None:
    """Check every stride-th program from `first` on, and say on standard output which, and what came of each."""
    ends = time.monotonic() + seconds
    shrunk: Counter[str] = Counter()
    with contextlib.suppress(ImportError):  # as on Windows
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    with os.fdopen(os.dup(1), "w", buffering=1) as out:
        os.dup2(2, 1)  # what programs print is not said
        for seed in range(first, first + LIFE * stride, stride):
            if time.monotonic() > ends:
                break
            print(json.dumps({"seed": seed}), file=out)
            print(json.dumps(outcome(seed, numba, shrunk, shrinks, ends)), file=out)


def outcome(seed: int, numba: bool, shrunk: Counter[str], shrinks: int, ends: float) -> dict[str, Any]:
    """What came of one program, as a word."""
    program = generate(seed, numba)
    try:
        verdict = check(program)
    except MemoryError as error:
        verdict = Verdict("invalid", f"MemoryError: {error}")
    if verdict.kind == "different" and NUMBERS in program.tags and frozen():
        program = replace(program, loop=tuple(line for line in program.loop if line.tag != NUMBERS))
        verdict = check(program)
        if verdict.kind == "same":
            verdict = replace(verdict, kind="documented")
    word = {**asdict(verdict), "seed": seed, "tags": program.tags}
    if verdict.kind != "different":
        return word
    if shrunk[kind_of(verdict)] < shrinks and time.monotonic() < ends:
        shrunk[kind_of(verdict)] += 1
        small, verdict = shrink(program, verdict)
        of = functions(small)
        beside = [*small.tags, *settings(small)]
        return word | {
            "what": verdict.what,
            "with": "; ".join(beside or [of]),
            "of": of,
            "script": script(small, verdict, numba),
        }
    return word


def frozen() -> bool:
    """Whether the documentation says that numbers from outside are what they were when a step was compiled."""
    return FROZEN in " ".join((tg.compile.__doc__ or "").split())


def functions(program: Program) -> str:
    """The layers, operations and methods in a program."""
    text = program.run("", watched=False)
    names = re.findall(
        r"\b(?:nn|optim|tg|F|np)\.(?!manual_seed|Parameter\b|float)(\w+)\(|\.(\w+)\(|op\[\"(\w+)\"\]|(@|\*\*|//|%)", text
    )
    return " ".join(sorted({word for group in names for word in group if word} - {"astype", "parameters", "to", "manual_seed"}))


def settings(program: Program) -> list[str]:
    """What a program needs besides its text to differ."""
    found = list(program.thresholds) + [f"{program.threads} threads"] * (program.threads > 1)
    return found + ["keep_grads"] * program.keep_grads + ["large"] * any(n > 60 for n in program.sizes.values())


def script(program: Program, verdict: Verdict, numba: bool) -> str:
    """The text that shows a difference."""
    where = f"call {verdict.call + 1}{f': {verdict.path}' if verdict.path else ''}"
    note = f"seed {program.seed}{'' if numba else ' without Numba'}, {where}: {verdict.what}"
    value = verdict.path or "r"
    if verdict.what.endswith("differs") and not value.endswith((".steps", ".lr", ".training")):
        value = f"getattr({value}, 'data', {value})" if value.startswith(RESULTS) else value
        value = f"float(np.ravel({value})[{verdict.place}])"
    return program.script(value, note, numba, tensors=run(program, lambda step: step).error is not None)


# All processes


@dataclass
class Worker:
    """A process at work.

    seed    of the program that it has in hand, or had last
    busy    whether it has one in hand
    heard   when it last said something
    rest    the beginning of a line of which the end has not come yet
    """

    process: subprocess.Popen[bytes]
    seed: int
    busy: bool
    heard: float
    rest: bytes = b""

    @property
    def out(self) -> IO[bytes]:
        assert self.process.stdout is not None
        return self.process.stdout

    def words(self) -> list[dict[str, Any]] | None:
        """What it has said since; None if it is at its end."""
        said = os.read(self.out.fileno(), 1 << 16)
        self.heard = time.monotonic()
        *lines, self.rest = (self.rest + said).split(b"\n")
        return [json.loads(line) for line in lines] if said else None


def command(seed: int, stride: int, numba: bool, seconds: float, shrinks: int) -> list[str]:
    """What starts a process at work."""
    options = ["--work", seed, "--stride", stride, "--seconds", seconds, "--shrinks", shrinks]
    return [sys.executable, "-m", "tests.fuzz", *map(str, options), *([] if numba else ["--no-numba"])]


def hunt(
    seconds: float, first: int = 0, numba: bool = True, jobs: int = 1, shrinks: int = SHRINKS, patience: float = PATIENCE
) -> Summary:
    """Check the programs from seed `first` on for so many seconds, in so many processes."""
    summary = Summary(numba)
    began = time.monotonic()
    ends = began + seconds
    selector = selectors.DefaultSelector()
    environment = {**os.environ, "TENSORGRAD_NO_NUMBA": "" if numba else "1"}

    def start(seed: int) -> None:
        left = max(ends - time.monotonic(), 0.0)
        started = command(seed, jobs, numba, left, shrinks)
        process = subprocess.Popen(started, stdout=subprocess.PIPE, bufsize=0, cwd=ROOT, env=environment)
        worker = Worker(process, seed, True, time.monotonic())
        selector.register(worker.out, selectors.EVENT_READ, worker)

    def ended(worker: Worker, problem: str) -> None:
        """A process has come to its end, or to none, with a program in hand if there is a problem: go on with the next."""
        selector.unregister(worker.out)
        worker.out.close()
        if problem:
            word = asdict(Verdict("different", problem)) | {"seed": worker.seed}
            summary.add(word | {"script": generate(worker.seed, numba).script("r", problem, numba)})
        if time.monotonic() < ends:
            start(worker.seed + jobs)

    for j in range(jobs):
        start(first + j)
    while workers := [key.data for key in selector.get_map().values()]:
        for key, _ in selector.select(1.0):
            worker: Worker = key.data
            words = worker.words()
            for word in words or ():
                worker.seed, worker.busy = word["seed"], "kind" not in word
                if not worker.busy:
                    summary.add(word)
            if words is None:
                code = worker.process.wait()
                ended(worker, f"crash: exit status {code}" if worker.busy and code else "")
        for worker in workers:
            if worker.process.poll() is None and time.monotonic() - worker.heard > patience:
                worker.process.kill()
                worker.process.wait()
                ended(worker, f"hang: no end after {patience} s")
    summary.seconds = time.monotonic() - began
    return summary


def scripts(summary: Summary) -> Iterator[str]:
    """One script for each kind of difference."""
    for words in summary.kinds().values():
        yield min((word["script"] for word in words if "script" in word), key=len, default="")


def report(summary: Summary, folder: str | None) -> None:
    """Print a summary, and write a script of each kind of difference into a folder, or print it."""
    print(summary)
    for number, text in enumerate(filter(None, scripts(summary))):
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            (Path(folder) / f"difference_{number:03}.py").write_text(text)
        else:
            print(f"\n{'-' * 100}\n{text}", end="")


def show(seed: int, numba: bool) -> int:
    """Print a program, what came of it, and a script if it differs."""
    program = generate(seed, numba)
    print(program.source())
    print(
        f"thresholds {program.thresholds}, {program.threads} threads, keep_grads={program.keep_grads}, habits: {program.tags}"
    )
    verdict = check(program)
    print(verdict)
    if verdict.kind == "different":
        print("\n" + script(*shrink(program, verdict), numba))
    return int(verdict.kind == "different")
