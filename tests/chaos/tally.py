"""What came of killing runs, as numbers and as a page."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_ROWS = {
    "kills": "kills (SIGKILL)",
    "catalogs": "catalogs, each run to its end afterwards",
    "lost": "units lost",
    "duplicated": "units published twice",
    "invalid": "invalid items or catalogs, after any kill",
    "different": "files that differ from the undisturbed run",
    "broken": "runs after a kill that failed",
    "unsettled": "published units that the ledger does not know as such",
    "blocks_kept": "finished blocks found after kills",
    "repeated": "of these, made once more",
    "leftovers": "files left behind for good",
}


@dataclass(slots=True)
class Tally:
    """What came of it."""

    kills: int = 0
    catalogs: int = 0
    #: Kills by what the run was doing.
    moments: dict[str, int] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)
    #: What was wrong with a published item or catalog, right after a kill or at the end.
    invalid: list[str] = field(default_factory=list)
    #: Files whose bytes differ from the undisturbed run's.
    different: list[str] = field(default_factory=list)
    #: Runs after a kill that did not end well.
    broken: list[str] = field(default_factory=list)
    #: Published units that the ledger does not know as such.
    unsettled: list[str] = field(default_factory=list)
    #: Finished blocks that a later run made once more.
    repeated: list[str] = field(default_factory=list)
    #: Finished blocks found after a kill.
    blocks_kept: int = 0
    _blocks: dict[str, int] = field(default_factory=dict)
    #: Files that nothing will ever use or clear away.
    leftovers: list[str] = field(default_factory=list)

    def killed(self, moment: str) -> None:
        """Count a kill."""
        self.kills += 1
        self.moments[moment] = self.moments.get(moment, 0) + 1

    def kept(self, blocks: dict[str, int]) -> None:
        """Compare the blocks found after a kill with those after the kill before: what was done must stay."""
        self.repeated += [path for path, written in blocks.items() if self._blocks.get(path, written) != written]
        self.blocks_kept += len(blocks)
        self._blocks = blocks

    @property
    def document(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return {name: value for name, value in asdict(self).items() if not name.startswith("_")} | {"ok": self.ok}

    @property
    def ok(self) -> bool:
        """Nothing was lost, doubled or damaged."""
        damage = self.lost, self.duplicated, self.invalid, self.different, self.broken
        return not any((*damage, self.unsettled, self.repeated, self.leftovers))


@dataclass(frozen=True, slots=True)
class Series:
    """One run of the command."""

    command: str
    date: str
    machine: str
    minutes: float
    #: Kills that were asked for; time may have run out before.
    wanted: int
    tally: dict[str, Any]


def series_of(tally: Tally, command: str, wanted: int, seconds: float) -> Series:
    """Return a series that ended now, on this machine."""
    from benchmarks.machine import machine

    return Series(command, f"{datetime.now(UTC):%Y-%m-%d}", machine(), round(seconds / 60, 1), wanted, tally.document)


def add_series(folder: Path, series: Series) -> None:
    """Add a series to `kills.json`, in place of an older one of the same command, and make `kills.md` of all."""
    path = folder / "kills.json"
    kept = [Series(**each) for each in json.loads(path.read_text("utf-8"))] if path.is_file() else []
    every = [each for each in kept if each.command != series.command] + [series]
    path.write_text(json.dumps([asdict(each) for each in every], indent=1) + "\n", "utf-8")
    (folder / "kills.md").write_text(page_of(every), "utf-8")


def page_of(every: Sequence[Series]) -> str:
    """Return the page of results."""
    moments: Counter[str] = Counter()
    for series in every:
        moments.update(series.tally["moments"])
    lines = [
        "# Runs killed at random moments",
        "",
        "A corner of the sample, two work units in small blocks, is run and killed again and again until a run gets to",
        "its end. Two kills of three come at a moment drawn evenly over the length of an undisturbed run, the others",
        "when a product has just been staged, so that publishing is hit, too. Catalog and items are validated after",
        "every kill; at the end work ids, rasters and pictures are compared with an undisturbed run, byte by byte.",
        "",
        *(line for series in every for line in _lines_of(series)),
        "",
        "| | |",
        "|---|---|",
        *(_row(key, name, every) for key, name in _ROWS.items()),
        "",
        "| killed while | kills |",
        "|---|---|",
        *(f"| {name} | {count} |" for name, count in moments.most_common()),
        "",
    ]
    return "\n".join(lines)


def _lines_of(series: Series) -> Iterator[str]:
    short = (
        "" if series.tally["kills"] >= series.wanted else f" Time ran out before {series.wanted} kills were reached."
    )
    yield f"- `{series.command}`: {series.tally['kills']} kills in {series.minutes:.0f} minutes, {series.date},"
    yield f"  {series.machine}.{short}"


def _row(key: str, name: str, every: Sequence[Series]) -> str:
    """Return a row of sums; it tells where not all series looked, as older ones did not look at everything."""
    counts = [series.tally[key] for series in every if key in series.tally]
    total = sum(count if isinstance(count, int) else len(count) for count in counts)
    looked = sum(series.tally["kills"] for series in every if key in series.tally)
    return f"| {name}{'' if len(counts) == len(every) else f' (looked at in {looked} kills)'} | {total} |"
