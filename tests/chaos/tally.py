"""What came of killing runs, as numbers and as a page."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime


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
    def ok(self) -> bool:
        """Nothing was lost, doubled or damaged."""
        damage = self.lost, self.duplicated, self.invalid, self.different, self.broken
        return not any((*damage, self.unsettled, self.repeated, self.leftovers))


def page_of(tally: Tally, command: str, wanted: int, seconds: float) -> str:
    """Return the page of results."""
    from flows.bench.machine import machine

    rows = [
        ("kills (SIGKILL)", tally.kills),
        ("catalogs, each run to its end afterwards", tally.catalogs),
        ("units lost", len(tally.lost)),
        ("units published twice", len(tally.duplicated)),
        ("invalid items or catalogs, after any kill", len(tally.invalid)),
        ("files that differ from the undisturbed run", len(tally.different)),
        ("runs after a kill that failed", len(tally.broken)),
        ("published units that the ledger does not know as such", len(tally.unsettled)),
        ("finished blocks found after kills", tally.blocks_kept),
        ("of these, made once more", len(tally.repeated)),
        ("files left behind for good", len(tally.leftovers)),
    ]
    moments = [f"| {name} | {count} |" for name, count in sorted(tally.moments.items(), key=lambda m: -m[1])]
    lines = [
        "# Runs killed at random moments",
        "",
        f"`{command}`, {datetime.now(UTC):%Y-%m-%d}, {machine()}, {seconds / 60:.0f} minutes.",
        "",
        "A corner of the sample, two work units in small blocks, is run and killed again and again until a run gets to",
        "its end. Two kills of three come at a moment drawn evenly over the length of an undisturbed run, the others",
        "when a product has just been staged, so that publishing is hit, too. Catalog and items are validated after",
        "every kill; at the end work ids, rasters and pictures are compared with an undisturbed run, byte by byte.",
        *([] if tally.kills >= wanted else ["", f"Time ran out before {wanted} kills were reached."]),
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {count} |" for name, count in rows),
        "",
        "| killed while | kills |",
        "|---|---|",
        *moments,
        "",
    ]
    return "\n".join(lines)
