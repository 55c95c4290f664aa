"""The same picture twice: within a split it weighs double, across splits it makes every result too good."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from de_model.data.datasets import Split
from de_model.data.findings import Finding, Problem, error, warning
from de_model.data.imagefile import Samples, read_picture
from de_model.data.layouts import PairFiles
from de_model.data.splits import REPEATED_TEST_PAIRS

#: Bits that may differ between the looks of near duplicates, of 64.
_NEAR_BITS = 3
#: A picture whose 8 x 9 thumbnail varies less than this share of its brightness has no look to compare: water, snow.
_FLAT = 0.02
_CHUNKS, _CHUNK_BITS = 4, 16


@dataclass(frozen=True, slots=True)
class Signature:
    """What identifies the pictures of a pair."""

    #: SHA-256 of the decoded samples, so re-encoding does not hide a copy.
    cloudy: str
    clear: str
    #: Difference hash of the clear picture, 64 bits; None for a flat picture.
    look: int | None


def signature_of(files: PairFiles, samples: Mapping[str, Samples] | None = None) -> Signature:
    """Return the signature of a pair, from its samples where they have been read.

    Raises:
        InvalidData: a picture cannot be read.
    """
    cloudy, clear = (
        samples[view] if samples is not None else read_picture(files.files[view]) for view in ("cloudy", "clear")
    )
    return Signature(content_hash(cloudy), content_hash(clear), difference_hash(clear))


def content_hash(samples: Samples) -> str:
    """Return the SHA-256 of shape, type and samples `(band, y, x)`."""
    head = f"{samples.shape} {samples.dtype.name}:".encode()
    return hashlib.sha256(head + np.ascontiguousarray(samples).tobytes()).hexdigest()


def difference_hash(samples: Samples) -> int | None:
    """Return 64 bits: whether brightness rises to the right between 8 rows of 9 averages; None for flat pictures.

    Survives re-encoding with loss, small shifts of brightness and resampling; not cropping or turning.
    """
    luma = Image.fromarray(samples[:3].astype(np.float32).mean(axis=0))
    small = np.asarray(luma.resize((9, 8), Image.Resampling.BOX))
    if small.std() <= _FLAT * max(float(np.abs(small).mean()), 1e-9):
        return None
    bits = (small[:, 1:] > small[:, :-1]).ravel()
    return int(np.packbits(bits).view(">u8")[0])


def find_duplicates(pairs: Sequence[PairFiles], signatures: Sequence[Signature]) -> list[Finding]:
    """Return every set of pairs that share a picture, and pairs that look alike.

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
    findings = [_duplicate([pairs[i] for i in members], views) for members, views in sorted(shared.items())]
    same = {couple for members in shared for couple in combinations(members, 2)}
    near = sorted(set(_near(signatures)) - same)
    return findings + [_near_duplicate(pairs[a], pairs[b], signatures[a], signatures[b]) for a, b in near]


def _duplicate(pairs: list[PairFiles], views: set[str]) -> Finding:
    names = ", ".join(pair.title for pair in pairs)
    message = f"{names} hold the same {' and '.join(sorted(views, reverse=True))} picture"
    known = [p for p in pairs if p.split is Split.TEST and p.name in REPEATED_TEST_PAIRS.get(p.dataset, ())]
    if len({pair.split for pair in pairs if pair not in known} - {None}) > 1:
        return error(Problem.LEAK, message + "; it is trained and tested on. Leave it out of the test.")
    left_out = f"; {', '.join(p.name for p in known)} of the test is known for it and left out" if known else ""
    return warning(Problem.DUPLICATE, message + left_out + ".")


def _near_duplicate(a: PairFiles, b: PairFiles, look_a: Signature, look_b: Signature) -> Finding:
    bits = ((look_a.look or 0) ^ (look_b.look or 0)).bit_count()
    message = f"{a.title} and {b.title} look alike ({bits} of 64 bits differ); compare them."
    return warning(Problem.NEAR_DUPLICATE, message)


def _near(signatures: Sequence[Signature]) -> Iterator[tuple[int, int]]:
    """Yield positions of looks that differ in few bits.

    With fewer differing bits than chunks, one chunk is equal; only pictures that share a chunk are compared.
    """
    for chunk in range(_CHUNKS):
        buckets: dict[int, list[int]] = defaultdict(list)
        for index, signature in enumerate(signatures):
            if signature.look is not None:
                buckets[signature.look >> (chunk * _CHUNK_BITS) & (2**_CHUNK_BITS - 1)].append(index)
        for members in buckets.values():
            yield from _close(np.array(members), signatures)


def _close(members: NDArray[np.int64], signatures: Sequence[Signature]) -> Iterator[tuple[int, int]]:
    looks = np.array([signatures[i].look for i in members], np.uint64)
    for position in range(len(members) - 1):
        distance = np.bitwise_count(looks[position + 1 :] ^ looks[position])
        for other in members[position + 1 :][distance <= _NEAR_BITS]:
            yield int(members[position]), int(other)
