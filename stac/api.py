"""Search, load, composite and write, one call each.

    from stac.api import composite, load, search, write

    items = search("earth-search", "sentinel-2-l2a", "2023-08-10/2023-08-20", bbox=(15.5, 46.1, 15.6, 46.2))
    scenes = load(items, bbox=(15.5, 46.1, 15.6, 46.2))
    write(composite(scenes, "2023-08-18"), "product")

Libraries are imported by the function that needs them, so importing this module costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pystac
    import xarray as xr
    from odc.geo.geobox import GeoBox

    from stac.load.stack import ReadOptions

__all__ = ["composite", "load", "search", "write"]

BANDS = ("blue", "green", "red", "nir")


def search(
    source: str, collection: str, datetime: str, *, bbox: Sequence[float] | str | None = None
) -> list[pystac.Item]:
    """Search for scenes.

    Args:
        source: `sample`, name of a provider (`earth-search`), URL of a STAC API, or URL or path of a static catalog.
        collection: id of the collection.
        datetime: `2023-08-10/2023-08-20`, both days included, one date, or RFC 3339 instants.
        bbox: west, south, east, north in degrees; west above east across the antimeridian. None searches everywhere.

    Returns:
        The scenes by time and id, the newest version of each.

    Raises:
        InvalidQuery: area, interval or collection make no sense.
        UnreadableCatalog, SourceUnavailable, AccessRefused: the source cannot be used.
    """
    from stac.search.opening import open_source
    from stac.search.source import Query

    return open_source(source).search(Query.parse(collection, bbox, datetime))


def load(
    items: Sequence[pystac.Item],
    geobox: GeoBox | None = None,
    *,
    bands: Sequence[str] = BANDS,
    bbox: Sequence[float] | None = None,
    native: bool = False,
    options: ReadOptions | None = None,
) -> xr.Dataset:
    """Read scenes onto one pixel grid, scaled by evidence and masked.

    Pixels on the scenes' own grid are those of the files, bit for bit. On another grid a pixel does not depend on the
    window that is read, and classes of the mask are never averaged. Scenes of one pass become one time. From three
    dates on the mask also hides what no other date agrees with, as runs do (`stac.masks.temporal`).

    Args:
        items: scenes, as `search` returns them.
        geobox: the grid; None takes that of the first scene's first band, as runs do (`stac.grid.cell.cell_of`).
        bands: common names.
        bbox: west, south, east, north in degrees: clips the first scene's grid.
        native: uint16 digital numbers, reflectance / 1e-4 with 0 for nodata, instead of float32 reflectance with NaN.
        options: cloud masks and their growth, resampling, time-outs; `ReadOptions()` asks no other date.

    Returns:
        The bands and `mask` (CF flags) on `(time, y, x)`, with `spatial_ref` for rioxarray and odc-geo, and for every
        time `item_id`, `source` and `radiometry`: scale, offset and the evidence for them.

    Raises:
        InvalidInput: there are no items, both `geobox` and `bbox`, or a grid that is turned or not in metres.
        InvalidItem, UnreadableAsset: a scene contradicts its files, or cannot be read.
    """
    from stac.errors import InvalidInput
    from stac.grid.cell import Cell, cell_of, unit_problem
    from stac.load.dataset import load_dataset
    from stac.load.stack import ReadOptions

    if geobox is not None and bbox is not None:
        raise InvalidInput("Both geobox and bbox were given; give one of them.")
    options = options or ReadOptions(temporal=True)
    if geobox is not None:
        if problem := unit_problem(geobox):
            raise InvalidInput(
                f"The geobox: {problem}; give one of a projection in metres, such as that of the scenes."
            )
        cell = Cell("grid", geobox)
    elif not items:
        raise InvalidInput("No items were given, so there is nothing to load; widen the search.")
    else:
        cell = cell_of(items[0], bands[0], bbox, options.access)
    if not cell.geobox.axis_aligned:
        raise InvalidInput(
            f"The grid {cell.id} is turned against its projection, which coordinates y and x cannot say; give a geobox "
            "that is not."
        )
    return load_dataset(items, cell, tuple(bands), options, native=native)


def composite(dataset: xr.Dataset, target: str, *, method: str = "fused", max_days: int | None = 15) -> xr.Dataset:
    """Fill what clouds hide on one date with what other dates saw.

    Args:
        dataset: of `load`, or a window of it.
        target: the date, `2023-08-18`, or the item's id.
        method: `fused` (every date mapped to the target's radiometry, averaged by how well it agrees), `nearest`,
            `median` or `geomedian`.
        max_days: dates further away are not used; None uses all.

    Returns:
        The bands, as in `dataset`, and `provenance` (CF flags), `source_date`, `reference_weight` on `(y, x)`, and
        `uncertainty`, the half-width of the 90 % interval, on `(band, y, x)`. Observed pixels keep their values; what
        no date saw is nodata with provenance `not_recoverable`.

    Raises:
        InvalidInput: the dataset is not one of `load`, or the target not one of its dates.
    """
    from stac.product.dataset import composite_dataset

    return composite_dataset(dataset, target, method, max_days)


def write(product: xr.Dataset, folder: str | Path) -> pystac.Item:
    """Write a product: a COG for each layer, pictures, and a STAC item `<id>.json`.

    Args:
        product: of `composite`.
        folder: is made where it does not exist.

    Returns:
        The item, its hrefs absolute.

    Raises:
        InvalidInput: the dataset is not one of `composite`, or the folder holds another product.
        DiskFull, NotWritable: the folder cannot be written.
    """
    from stac.product.dataset import write_dataset

    return write_dataset(product, Path(folder))
