"""The kinds of masks there are."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum, unique

import pystac

from stac.assets import has_asset
from stac.masks.method import MaskMethod
from stac.masks.omnicloudmask import OMNICLOUDMASK
from stac.masks.qa_pixel import QA_PIXEL
from stac.masks.s2cloudless import S2CLOUDLESS
from stac.masks.scl import SCL


@unique
class MaskKind(StrEnum):
    """A way to tell cloud and shadow from ground."""

    #: Sentinel-2 scene classification, an asset.
    SCL = "scl"
    #: Landsat Collection 2 quality band, an asset.
    QA_PIXEL = "qa_pixel"
    #: Cloud probability from ten bands of Sentinel-2 Level-1C.
    S2CLOUDLESS = "s2cloudless"
    #: Deep learning from red, green and near infrared; an optional package.
    OMNICLOUDMASK = "omnicloudmask"

    @property
    def method(self) -> MaskMethod:
        """How the mask is made."""
        return _METHODS[self]


_METHODS = {
    MaskKind.SCL: SCL,
    MaskKind.QA_PIXEL: QA_PIXEL,
    MaskKind.S2CLOUDLESS: S2CLOUDLESS,
    MaskKind.OMNICLOUDMASK: OMNICLOUDMASK,
}


def kinds_for(item: pystac.Item, asked: Sequence[MaskKind]) -> tuple[MaskKind, ...]:
    """Return the masks asked for, or, when none was, the one that comes with the scene."""
    if asked:
        return tuple(asked)
    return (MaskKind.QA_PIXEL,) if has_asset(item, "qa_pixel") else (MaskKind.SCL,)
