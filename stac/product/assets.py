"""The assets of a product item, and how viewers render them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pystac
from odc.geo.geobox import GeoBox

from stac.grid.georeference import band_fields
from stac.product.cog import rgb_of
from stac.product.layers import Provenance
from stac.product.preview import BRIGHTEST, RGB
from stac.product.writer import DTYPES, SPECS, Layer, ProductSummary, bands_of
from stac.reflectance import PRODUCT_NODATA, PRODUCT_SCALE

#: Half-width of the interval that is drawn white, reflectance.
_MOST_UNCERTAIN = 0.1
COG_TYPE = "image/tiff; application=geotiff; profile=cloud-optimized"
_ROLES = {Layer.VISUAL: ["visual", "overview"], Layer.DATA: ["data", "reflectance"]}
#: Units as UDUNITS spells them; what has no entry counts nothing.
_UNITS = {Layer.DATA: "1", Layer.UNCERTAINTY: "1", Layer.REFERENCE_WEIGHT: "1", Layer.SOURCE_DATE: "d"}
_PICTURES: dict[str, tuple[str, str, str, list[str]]] = {
    "thumbnail": ("thumbnail.png", "image/png", "Thumbnail", ["thumbnail"]),
    "quicklook": ("quicklook.png", "image/png", "Before, after, and where it comes from", ["graphic"]),
    "report": ("report.html", "text/html", "Quality report", ["metadata"]),
    "metadata": ("metadata.json", "application/json", "Parameters and figures", ["metadata"]),
}
#: The names that version 2 of the eo extension knows, and its names for those of version 1.
_COMMON_NAMES = frozenset({
    "pan", "coastal", "blue", "green", "green05", "yellow", "red", "rededge", "rededge071", "rededge075", "rededge078",
    "nir", "nir08", "nir09", "cirrus", "swir16", "swir22", "lwir", "lwir11", "lwir12",
})  # fmt: skip
_RENAMED = {"rededge1": "rededge071", "rededge2": "rededge075", "rededge3": "rededge078"}
#: What a source says of a band's spectrum, micrometres, by its names in STAC 1.0.
_SPECTRAL = ("center_wavelength", "full_width_half_max")
#: Name, title and description of pixels from other dates that are as one date saw them.
_COPIED = ("observed_other_date", "Observed on another date", "As the nearest date that was clear there saw it.")


def renders_of(bands: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the views of a product by name.

    Args:
        bands: common names in the order of `data`.
    """
    brightest = round(BRIGHTEST / PRODUCT_SCALE)
    shown = [bands.index(band) + 1 for band in RGB] if set(RGB) <= set(bands) else [1]
    return {
        "visual": {"title": "Natural colour", "assets": [str(Layer.VISUAL)], "bidx": [1, 2, 3], "nodata": 0},
        "true-colour": {
            "title": "Natural colour from reflectance",
            "assets": [str(Layer.DATA)],
            "bidx": shown,
            "rescale": [[0, brightest]] * len(shown),
            "nodata": PRODUCT_NODATA,
        },
        "provenance": {
            "title": "Where each pixel comes from",
            "assets": [str(Layer.PROVENANCE)],
            "bidx": [1],
            "colormap": {str(p.value): [*rgb_of(p.color), 0 if p is Provenance.NODATA else 255] for p in Provenance},
            "resampling": "nearest",
            "nodata": int(Provenance.NODATA),
        },
        "uncertainty": {
            "title": f"Uncertainty of {bands[0]}, white from {_MOST_UNCERTAIN:g}",
            "assets": [str(Layer.UNCERTAINTY)],
            "bidx": [1],
            "rescale": [[0, _MOST_UNCERTAIN]],
            "nodata": "nan",
        },
    }


_TITLES = {
    Layer.VISUAL: ("Natural colour", "Red, green and blue for the eye, 8 bit."),
    Layer.DATA: (
        "Surface reflectance",
        "Surface reflectance times 10 000; observed pixels are bit-identical to the source.",
    ),
    Layer.PROVENANCE: ("Provenance", "Where each pixel comes from."),
    Layer.SOURCE_DATE: ("Source date", "Days since 1970-01-01 of the acquisition that saw each pixel."),
    Layer.REFERENCE_WEIGHT: ("Reference weight", "Share of the reference network in each pixel the model restored."),
    Layer.UNCERTAINTY: ("Uncertainty", "Half-width of the 90 % interval, reflectance."),
}


def product_assets(
    summary: ProductSummary, target: pystac.Item, folder: Path, *, copied: bool = False
) -> dict[str, pystac.Asset]:
    """Return the assets of a product whose files lie in `folder`; hrefs are relative to its item.

    Args:
        summary: the product's pixels.
        target: the source item that is restored; what it says of its bands is true of the product's.
        folder: with all files.
        copied: pixels from other dates are as one date saw them, not synthesised from several.

    Raises:
        OSError: a raster or the thumbnail is missing.
    """
    rasters = {
        str(layer): _raster(layer, summary, target, folder / layer.file_name, _classes(copied=copied))
        for layer in Layer
    }
    pictures = {
        key: file_asset(folder / name, media_type, title, roles)
        for key, (name, media_type, title, roles) in _PICTURES.items()
        if key == "thumbnail" or (folder / name).exists()
    }
    return rasters | pictures


def file_asset(
    path: Path,
    media_type: str,
    title: str,
    roles: list[str],
    fields: Mapping[str, Any] | None = None,
    description: str | None = None,
) -> pystac.Asset:
    """Return the asset of a file that lies beside its item, with its size, its checksum and more fields."""
    return pystac.Asset(f"./{path.name}", title, description, media_type, roles, file_info(path) | dict(fields or {}))


def file_info(path: Path) -> dict[str, Any]:
    """Return size and checksum (SHA2-256 multihash) of a file."""
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"file:size": path.stat().st_size, "file:checksum": f"1220{digest}"}


def common_name(band: str) -> str | None:
    """Return the eo extension's name of a band, None where it has none."""
    name = _RENAMED.get(band, band)
    return name if name in _COMMON_NAMES else None


def _raster(
    layer: Layer, summary: ProductSummary, target: pystac.Item, path: Path, classes: list[dict[str, Any]]
) -> pystac.Asset:
    title, description = _TITLES[layer]
    names = bands_of(layer, summary.bands)
    bands = [_band(layer, name, found, target) for name, found in zip(names, summary.statistics[layer], strict=True)]
    fields = grid_fields(summary.geobox) | {"bands": bands}
    fields |= {"data_type": DTYPES[layer], "nodata": _json_number(SPECS[layer].nodata)}
    if layer is Layer.PROVENANCE:
        fields["classification:classes"] = classes
        bands[0]["classification:classes"] = classes
    return file_asset(path, COG_TYPE, title, _ROLES.get(layer, ["metadata"]), fields, description)


def grid_fields(geobox: GeoBox) -> dict[str, Any]:
    """Return the pixel grid of a raster; on assets, so that readers such as odc-stac know rasters from pictures."""
    transform = [float(v) for v in tuple(geobox.affine)[:6]]
    return {"proj:shape": [int(n) for n in geobox.shape], "proj:transform": transform}


def _band(layer: Layer, name: str, statistics: Mapping[str, float], target: pystac.Item) -> dict[str, Any]:
    """Return one of STAC 1.1 `bands[]`, which stand in file order."""
    band: dict[str, Any] = {
        "name": name,
        "data_type": DTYPES[layer],
        "nodata": _json_number(SPECS[layer].nodata),
        "statistics": dict(statistics),
    }
    if layer in _UNITS:
        band["unit"] = _UNITS[layer]
    if layer in (Layer.VISUAL, Layer.DATA) and (known := common_name(name)):
        band["eo:common_name"] = known
    if layer is Layer.DATA:
        band |= {"raster:scale": PRODUCT_SCALE, "raster:offset": 0} | _spectrum(target, name)
    return band


def _spectrum(target: pystac.Item, name: str) -> dict[str, float]:
    """Return what the source says of the wavelengths of a band, as far as they are lengths."""
    for asset in target.assets.values():
        for fields in (*band_fields(asset, "bands"), *band_fields(asset, "eo:bands")):
            if name in (fields.get("eo:common_name"), fields.get("common_name"), fields.get("name")):
                values = {f"eo:{n}": fields.get(f"eo:{n}", fields.get(n)) for n in _SPECTRAL}
                return {key: float(value) for key, value in values.items() if _is_length(value)}
    return {}


def _is_length(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _classes(*, copied: bool) -> list[dict[str, Any]]:
    names = {p: (p.name.lower(), p.label, p.description) for p in Provenance}
    names[Provenance.OTHER_DATES] = _COPIED if copied else ("synthesised", *names[Provenance.OTHER_DATES][1:])
    return [
        {
            "value": p.value,
            "name": names[p][0],
            "title": names[p][1],
            "description": names[p][2],
            "color_hint": p.color.upper(),
            "nodata": p is Provenance.NODATA,
        }
        for p in Provenance
    ]


def _json_number(value: float) -> float | int | str:
    if np.isnan(value):
        return "nan"
    return int(value) if float(value).is_integer() else value
