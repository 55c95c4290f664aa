"""The public cloud-removal data sets: what their files hold.

None of them may be shipped: they state no licence.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum, unique

RGB = ("red", "green", "blue")


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
