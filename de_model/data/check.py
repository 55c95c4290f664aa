"""Everything that is wrong with a data set on disk, before hours of training find out.

The same picture twice weighs double within a split; across splits it makes every result too good.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from de_model.data.datasets import FACTS, REPEATED_TEST_PAIRS, Dataset, Split
from de_model.data.folders import Finding, PairFiles, Problem, Severity, error, find_pairs, warning
from de_model.data.imagefile import content_hash
from de_model.data.readers import read_samples

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
    hashes: list[dict[str, str]] = []
    for done, pair in enumerate(pairs, 1):
        samples, faults = read_samples(pair)
        findings += faults
        if {"cloudy", "clear"} <= samples.keys():
            readable.append(pair)
            hashes.append({view: content_hash(samples[view]) for view in ("cloudy", "clear")})
        if on_pair is not None:
            on_pair(done, len(pairs))
    return findings + _duplicates(readable, hashes)


def _duplicates(pairs: Sequence[PairFiles], hashes: Sequence[Mapping[str, str]]) -> list[Finding]:
    """Return every set of pairs that share a picture, by the `content_hash` of their views.

    The same picture in two splits is an error (`Problem.LEAK`); within one split, or where no split is known, or
    where the readers leave the test pair out anyway, a warning. Give all data sets that are trained or tested on
    together: CUHK-CR1 shares pictures with CUHK-CR2.
    """
    shared: dict[tuple[int, ...], set[str]] = defaultdict(set)
    for view in ("cloudy", "clear"):
        groups: dict[str, list[int]] = defaultdict(list)
        for index, own in enumerate(hashes):
            groups[own[view]].append(index)
        for members in groups.values():
            if len(members) > 1:
                shared[tuple(members)].add(view)
    return [_duplicate([pairs[i] for i in members], views) for members, views in sorted(shared.items())]


def _duplicate(pairs: list[PairFiles], views: set[str]) -> Finding:
    names = ", ".join(pair.title for pair in pairs)
    message = f"{names} hold the same {' and '.join(sorted(views, reverse=True))} picture"
    known = [p for p in pairs if p.split is Split.TEST and p.name in REPEATED_TEST_PAIRS.get(p.dataset, ())]
    if len({pair.split for pair in pairs if pair not in known} - {None}) > 1:
        return error(Problem.LEAK, message + "; it is trained and tested on. Leave it out of the test.")
    left_out = f"; {', '.join(p.name for p in known)} of the test is known for it and left out" if known else ""
    return warning(Problem.DUPLICATE, message + left_out + ".")
