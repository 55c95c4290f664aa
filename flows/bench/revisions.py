"""Compare what two revisions of this software cost, on one machine and in turns."""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flows.bench.machine import machine
from flows.errors import BenchFailed, InvalidSettings
from flows.progress import tell

#: The word for the files as they lie in the working tree.
HERE = "."
_GIT_S = 120
_EXPLANATION = """\
Both revisions are measured in turns, so that what else the machine does meets both. Figures are medians of the turns;
*clear* says that the two ranges do not touch. Figures that only one of the two knows are left out."""


@dataclass(frozen=True, slots=True)
class Compared:
    """One figure of both revisions, a value of each turn."""

    name: str
    before: tuple[float, ...]
    after: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """After over before, of the medians; infinite where it was zero."""
        first, second = statistics.median(self.before), statistics.median(self.after)
        return second / first if first else (1.0 if second == first else math.inf)

    @property
    def clear(self) -> bool:
        """Tell whether every value of one is beyond every value of the other."""
        return max(self.before) < min(self.after) or max(self.after) < min(self.before)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two revisions and all figures that both know."""

    kind: str
    before: str
    after: str
    turns: int
    figures: tuple[Compared, ...]
    #: Names that one of the two does not know.
    unmatched: int


def bench_revisions(kind: str, before: str, after: str, turns: int, timeout_s: float) -> Comparison:
    """Measure `unveil bench KIND` of two revisions of the repository in the working folder, with this interpreter.

    Args:
        kind: a kind of measurement that both revisions have.
        before: a commit, tag or branch, or `.` for the files as they lie here.
        after: likewise.
        turns: measurements of each.
        timeout_s: of one measurement.

    Raises:
        InvalidSettings: the working folder is in no repository, or a revision is unknown.
        BenchFailed: a measurement failed or took too long.
    """
    found: dict[str, list[Mapping[str, float]]] = {"before": [], "after": []}
    with _checked_out(before) as first, _checked_out(after) as second:
        for turn in range(turns):
            # The one that begins changes, so that a machine that slows down meets both alike.
            order = [("before", before, first), ("after", after, second)]
            for side, revision, folder in order if turn % 2 == 0 else reversed(order):
                tell(f"turn {turn + 1} of {turns}: {revision}")
                found[side].append(dict(figures_of(_measure(kind, revision, folder, timeout_s))))
    known = [set.intersection(*(set(each) for each in found[side])) for side in found]
    both = [name for name in found["before"][0] if name in known[0] & known[1]]
    figures = tuple(
        Compared(name, tuple(each[name] for each in found["before"]), tuple(each[name] for each in found["after"]))
        for name in both
    )
    return Comparison(kind, before, after, turns, figures, len(known[0] ^ known[1]))


def figures_of(record: Any, prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yield all numbers of a record by their paths; parts of a list go by their `name`, or else by their place."""
    if isinstance(record, bool) or record is None or isinstance(record, str):
        return
    if isinstance(record, int | float):
        yield prefix, float(record)
        return
    parts = record.items() if isinstance(record, dict) else _named(record)
    for name, part in parts:
        yield from figures_of(part, f"{prefix}.{name}" if prefix else str(name))


def _named(parts: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    for place, part in enumerate(parts):
        name = part.get("name") if isinstance(part, dict) else None
        yield str(place if name is None else name), part


@contextmanager
def _checked_out(revision: str) -> Iterator[Path]:
    """Yield a folder with the files of a revision; it goes away afterwards."""
    root = Path(_git("rev-parse", "--show-toplevel"))
    if revision == HERE:
        yield root
        return
    # A revision that begins with a dash must not be read as an option.
    commit = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    with tempfile.TemporaryDirectory(prefix="unveil-revision-") as folder:
        files = Path(folder) / "files"
        _git("worktree", "add", "--detach", "--quiet", str(files), commit)
        try:
            yield files
        finally:
            _git("worktree", "remove", "--force", str(files))


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", *arguments],
            capture_output=True,
            text=True,
            timeout=_GIT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", "") or "").strip().splitlines()
        raise InvalidSettings(
            f"git {' '.join(arguments)} failed{': ' + said[-1] if said else ''}; start this in a clone of the "
            "repository, and name commits, tags or branches of it."
        ) from error
    return done.stdout.strip()


def _measure(kind: str, revision: str, folder: Path, timeout_s: float) -> Any:
    """Return the record of one measurement."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "flows.cli", "bench", kind, "--json"],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(folder)},
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=True,
        )
        return json.loads(done.stdout)
    except subprocess.TimeoutExpired as error:
        raise BenchFailed(f"{revision}: `bench {kind}` took over {timeout_s:g} s; give a longer --timeout.") from error
    except subprocess.CalledProcessError as error:
        said = (error.stderr.strip().splitlines() or ["nothing"])[-1]
        raise BenchFailed(
            f"{revision}: `bench {kind}` ended with status {error.returncode} and said: {said}"
        ) from error
    except (OSError, ValueError) as error:
        raise BenchFailed(f"{revision}: `bench {kind} --json` printed no record ({error}).") from error


def as_markdown(found: Comparison, command: str) -> str:
    """Return a results page: a row per figure, those first that changed most among the clear ones."""
    rows = [
        f"| {each.name} | {statistics.median(each.before):.4g} | {statistics.median(each.after):.4g} "
        f"| {each.ratio:.3f} | {'clear' if each.clear else ''} |"
        for each in sorted(found.figures, key=_weight, reverse=True)
    ]
    pages = [
        f"# `unveil bench {found.kind}` of two revisions",
        f"Command: `{command}`; {datetime.now(UTC):%Y-%m-%d}; {machine()}; {found.turns} turns each.",
        _EXPLANATION + (f" Here {found.unmatched}." if found.unmatched else ""),
        "\n".join([f"| | {found.before} | {found.after} | ratio | |", "|---" * 5 + "|", *rows]),
    ]
    return "\n\n".join(pages) + "\n"


def _weight(figure: Compared) -> tuple[bool, float]:
    change = abs(math.log(figure.ratio)) if 0 < figure.ratio < math.inf else math.inf
    return figure.clear, change


def as_record(found: Comparison) -> dict[str, Any]:
    """Return everything as JSON values; a ratio to zero is null."""
    figures = [
        {
            "name": each.name,
            "before": list(each.before),
            "after": list(each.after),
            "ratio": each.ratio if math.isfinite(each.ratio) else None,
            "clear": each.clear,
        }
        for each in found.figures
    ]
    sides = {"kind": found.kind, "before": found.before, "after": found.after, "turns": found.turns}
    return {"machine": machine(), **sides, "figures": figures, "unmatched": found.unmatched}
