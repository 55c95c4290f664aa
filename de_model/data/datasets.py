"""The public cloud-removal data sets: what their files hold, and which pair is trained on and which is tested on.

None of them may be shipped: they state no licence. Splits are fixed, without a seed, and the same on every machine:

| data set | split |
|---|---|
| CUHK-CR1, CUHK-CR2 | the folders `train` and `test` of the archive: 534 / 134 and 448 / 111 |
| RICE1, RICE2 | ours (`hashed_split`): 400 / 100 and 589 / 147. Papers drew at random and published no lists |
| scenes found by search | by grid cell (`split_of`), so that no ground is seen in training and tested on |
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum, unique

from de_model.errors import InvalidModelInput

RGB = ("red", "green", "blue")
#: Changing it changes every split; results before and after could not be compared.
_SALT = "unveil-split/1:"
#: RICE's usual share of test pairs: 100 of 500.
_TEST_SHARE = 0.2


@unique
class Dataset(StrEnum):
    """Data sets whose layout is known. The values are the names of their folders."""

    RICE1 = "RICE1"
    RICE2 = "RICE2"
    CUHK_CR1 = "CUHK-CR1"
    CUHK_CR2 = "CUHK-CR2"
    #: Any folder with `cloud` and `label`.
    PAIRED = "paired folders"


@unique
class Split(StrEnum):
    """Parts of a data set."""

    TRAIN = "train"
    VAL = "val"
    TEST = "test"


@dataclass(frozen=True, slots=True)
class Facts:
    """What the files of a data set hold."""

    #: Common names in channel order.
    bands: tuple[str, ...]
    #: Bits of a sample. 8-bit sets hold display values, 16-bit sets reflectance times 10000.
    bits: int
    #: Ground sampling distance, metres; None where it varies or is not recorded.
    gsd_m: float | None
    #: Where a near-infrared picture may lie beside, that band's name.
    extra_band: str | None = None
    #: Pairs in the distributed archive; None where copies of different size go round.
    pairs: int | None = None


FACTS = {
    # Google Earth at zoom levels that were not recorded.
    Dataset.RICE1: Facts(RGB, 8, None, pairs=500),
    # Landsat 8. The paper says 450 pairs, the archive holds 736.
    Dataset.RICE2: Facts(RGB, 8, 30.0, pairs=736),
    Dataset.CUHK_CR1: Facts(RGB, 8, 0.5, "nir", pairs=668),
    Dataset.CUHK_CR2: Facts(RGB, 8, 0.5, "nir", pairs=559),
    Dataset.PAIRED: Facts(RGB, 8, None, "nir"),
}


#: Test pairs that repeat a training image of CUHK-CR1 or CUHK-CR2 (32) or an earlier test image (74, 76, 91, 102);
#: without them 98 of 134 remain. Found by KAIST-VICLab/GeoCR, splits/C-CUHK/CUHK-CR1/splits/test_exclude.txt.
REPEATED_TEST_PAIRS = {
    Dataset.CUHK_CR1: frozenset(
        str(number)
        for number in (
            *(1, 2, 24, 35, 41, 43, 45, 47, 48, 51, 52, 54, 56, 57, 58, 59, 60, 61, 62, 63, 64, 65, 67, 68, 69, 70),
            *(74, 75, 76, 77, 78, 79, 80, 81, 91, 102),
        )
    )
}


def hashed_split(names: Sequence[str], contents: Mapping[str, Collection[str]] | None = None) -> dict[str, Split]:
    """Return train or test for every name, a fifth of them test (rounded), whatever their order.

    Names are ranked by the SHA-256 of a fixed salt and the name; the first fifth is tested on. Names that share a
    content (the same image under several names) stay together, at the rank of their first one; a group that would
    overfill the test part trains.

    Args:
        names: of the pairs, unique; `1` and `cloud/1.png` are different names.
        contents: hashes of the pictures of each name; names without any share nothing.
    """
    places = round(_TEST_SHARE * len(names))
    split: dict[str, Split] = {}
    for together in _groups(sorted(names, key=_rank), contents or {}):
        chosen = Split.TEST if len(together) <= places else Split.TRAIN
        places -= len(together) if chosen is Split.TEST else 0
        split |= dict.fromkeys(together, chosen)
    return split


def _groups(names: Sequence[str], contents: Mapping[str, Collection[str]]) -> list[list[str]]:
    """Return names that are linked by shared contents, in the order of their first ones."""
    groups: dict[str, list[str]] = {}
    owner: dict[str, str] = {}
    of: dict[str, str] = {}
    for name in names:
        linked = sorted({of[owner[content]] for content in contents.get(name, ()) if content in owner})
        group = min(linked, key=list(groups).index, default=name)
        groups.setdefault(group, []).append(name)
        for other in linked:
            if other != group:
                groups[group] += groups.pop(other)
        of |= dict.fromkeys(groups[group], group)
        owner |= dict.fromkeys(contents.get(name, ()), name)
    return list(groups.values())


def split_of(cell_id: str, val_share: float = 0.1, test_share: float = 0.1) -> Split:
    """Return the split of a grid cell, e.g. `MGRS-33TWM`: all its scenes, of any date, belong to it.

    The cell's hash alone decides, so cells found later do not move earlier ones.

    Raises:
        InvalidModelInput: the shares are negative or leave nothing to train on.
    """
    if min(val_share, test_share) < 0 or not val_share + test_share < 1:
        raise InvalidModelInput(f"Shares {val_share} and {test_share} must be 0 or more and leave some to train on.")
    place = int(_rank(cell_id)[:13], 16) / 16**13
    if place < test_share:
        return Split.TEST
    return Split.VAL if place < test_share + val_share else Split.TRAIN


def _rank(name: str) -> str:
    return hashlib.sha256((_SALT + name).encode()).hexdigest()
