"""The same picture twice: within a split it weighs double, across splits it makes every result too good."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from de_model.data.datasets import Split
from de_model.data.findings import Finding, Problem, error, warning
from de_model.data.imagefile import Samples, read_picture
from de_model.data.layouts import PairFiles
from de_model.data.splits import REPEATED_TEST_PAIRS


@dataclass(frozen=True, slots=True)
class Signature:
    """What identifies the pictures of a pair."""

    #: SHA-256 of the decoded samples, so re-encoding does not hide a copy.
    cloudy: str
    clear: str


def signature_of(files: PairFiles, samples: Mapping[str, Samples] | None = None) -> Signature:
    """Return the signature of a pair, from its samples where they have been read.

    Raises:
        InvalidData: a picture cannot be read.
    """
    cloudy, clear = (
        samples[view] if samples is not None else read_picture(files.files[view]) for view in ("cloudy", "clear")
    )
    return Signature(content_hash(cloudy), content_hash(clear))


def content_hash(samples: Samples) -> str:
    """Return the SHA-256 of shape, type and samples `(band, y, x)`."""
    head = f"{samples.shape} {samples.dtype.name}:".encode()
    return hashlib.sha256(head + np.ascontiguousarray(samples).tobytes()).hexdigest()


def find_duplicates(pairs: Sequence[PairFiles], signatures: Sequence[Signature]) -> list[Finding]:
    """Return every set of pairs that share a picture.

    The same picture in two splits is an error (`Problem.LEAK`); within one split, or where no split is known, or
    where the readers leave the test pair out anyway, a warning. Give all data sets that are trained or tested on
    together: CUHK-CR1 shares pictures with CUHK-CR2.
    """
    shared: dict[tuple[int, ...], set[str]] = defaultdict(set)
    for view in ("cloudy", "clear"):
        groups: dict[str, list[int]] = defaultdict(list)
        for index, signature in enumerate(signatures):
            groups[getattr(signature, view)].append(index)
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
