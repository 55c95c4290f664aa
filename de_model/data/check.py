"""Everything that is wrong with a data set on disk, before hours of training find out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from de_model.data.datasets import FACTS, Dataset, Split
from de_model.data.duplicates import Signature, find_duplicates, signature_of
from de_model.data.findings import Finding, Problem, Severity, warning
from de_model.data.inspection import read_samples
from de_model.data.layouts import PairFiles, find_pairs

OnPair = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class PairCount:
    """How many pairs a part of a data set holds."""

    dataset: Dataset
    split: Split | None
    pairs: int


@dataclass(frozen=True, slots=True)
class Report:
    """What a folder holds and what is wrong with it."""

    folder: Path
    counts: tuple[PairCount, ...]
    findings: tuple[Finding, ...]

    @property
    def usable(self) -> bool:
        """True when nothing is an error."""
        return all(finding.severity is not Severity.ERROR for finding in self.findings)


def check_folder(folder: Path, *, pixels: bool = True, on_pair: OnPair | None = None) -> Report:
    """Check layout and names, then every picture, then whether pictures repeat.

    One pair is in memory at a time.

    Args:
        folder: a data set's folder or one above it.
        pixels: False leaves all pictures unopened: names and layout alone, in seconds.
        on_pair: called with how many pairs of how many have been read.
    """
    layout = find_pairs(folder)
    findings = list(layout.findings)
    counts = Counter((pair.dataset, pair.split) for pair in layout.pairs)
    findings += _unexpected_counts(counts)
    if pixels:
        findings += _check_pictures(layout.pairs, on_pair)
    return Report(folder, tuple(PairCount(*part, number) for part, number in counts.items()), tuple(findings))


def _unexpected_counts(counts: Counter[tuple[Dataset, Split | None]]) -> list[Finding]:
    totals: Counter[Dataset] = Counter()
    for (dataset, _), number in counts.items():
        totals[dataset] += number
    return [
        warning(
            Problem.PAIR_COUNT, f"{dataset} holds {number} pairs here, the distributed archive {FACTS[dataset].pairs}."
        )
        for dataset, number in totals.items()
        if FACTS[dataset].pairs not in (None, number)
    ]


def _check_pictures(pairs: list[PairFiles], on_pair: OnPair | None) -> list[Finding]:
    findings: list[Finding] = []
    readable: list[PairFiles] = []
    signatures: list[Signature] = []
    for done, pair in enumerate(pairs, 1):
        samples, faults = read_samples(pair)
        findings += faults
        if {"cloudy", "clear"} <= samples.keys():
            readable.append(pair)
            signatures.append(signature_of(pair, samples))
        if on_pair is not None:
            on_pair(done, len(pairs))
    return findings + find_duplicates(readable, signatures)
