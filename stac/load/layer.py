"""One band of a scene before its pixels are read: what item and file say together about how to read it."""

from __future__ import annotations

from dataclasses import dataclass

import pystac
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling

from stac.grid.assets import band_index
from stac.grid.cell import Cell, native_geobox
from stac.io.file_facts import FileFacts
from stac.io.signing import Access
from stac.load.reading import AssetRequest, facts_of_asset, kernel_reach
from stac.load.scaling import Decision, decide


@dataclass(frozen=True, slots=True)
class Layer:
    """A band that was looked at."""

    request: AssetRequest
    #: How digital numbers become reflectance; None for a classification.
    scaling: Decision | None
    #: Pixel grid of the file.
    grid: GeoBox
    #: None where a service computes the pixels.
    facts: FileFacts | None

    def reach(self, cell: Cell) -> int:
        """Return how far a pixel of the file reaches when it is drawn for a cell, pixels of the cell."""
        return 0 if self.facts is None else kernel_reach(self.facts, cell.geobox, self.request.resampling)


def look_at(
    item: pystac.Item,
    band: str,
    asset: pystac.Asset,
    resampling: Resampling,
    classes_nodata: int | None = None,
    *,
    timeout_s: float,
    access: Access | None = None,
) -> Layer:
    """Open a band's file, compare it with its item, and decide how it is read.

    Args:
        item: the scene.
        band: the band's name.
        asset: where it is.
        resampling: of reflectance; classifications take the nearest pixel.
        classes_nodata: value outside a classification; None for reflectance.
        timeout_s: longest wait for one request, seconds.
        access: how remote bytes are reached.

    Raises:
        InvalidItem: item and file contradict each other, or leave open what cannot be guessed.
        AccessRefused, UnreadableAsset: the file cannot be read.
    """
    facts = facts_of_asset(item, band, asset, timeout_s, access)
    index = 1 if facts is None else band_index(item, asset, band, facts)
    grid = native_geobox(item, band, timeout_s) if facts is None else facts.geobox
    if classes_nodata is not None:
        request = AssetRequest.of(item, band, asset, classes_nodata, Resampling.nearest, index=index, classes=True)
        return Layer(request, None, grid, facts)
    scaling = decide(item, asset, None if facts is None else facts.band(index))
    return Layer(AssetRequest.of(item, band, asset, scaling.nodata, resampling, index=index), scaling, grid, facts)
