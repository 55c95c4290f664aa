"""What a collection of products says for all its items: extensions, views, publications and the layout of assets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stac.extensions import PUBLICATIONS, Extension

#: Fields of an asset, and of its bands, that all items have in common.
_COMMON = ("title", "description", "type", "roles", "data_type", "nodata", "classification:classes")
_COMMON_OF_BAND = (
    "name", "data_type", "nodata", "unit", "eo:common_name", "eo:center_wavelength", "eo:full_width_half_max",
    "raster:scale", "raster:offset", "classification:classes",
)  # fmt: skip


def collection_fields(latest: Mapping[str, Any]) -> dict[str, Any]:
    """Return `stac_extensions`, `item_assets`, `renders` and `sci:publications` of a collection.

    Args:
        latest: document of its newest item.
    """
    assets = item_assets_of(latest)
    fields: dict[str, Any] = {"item_assets": assets, "sci:publications": list(PUBLICATIONS)}
    if renders := latest["properties"].get("renders"):
        fields["renders"] = renders
    return {"stac_extensions": _extensions(assets, fields), **fields}


def item_assets_of(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return what every item's assets have in common."""
    return {key: _common(asset) for key, asset in item["assets"].items()}


def _common(asset: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: asset[name] for name in _COMMON if asset.get(name) is not None}
    if bands := asset.get("bands"):
        kept["bands"] = [{name: band[name] for name in _COMMON_OF_BAND if name in band} for band in bands]
    return kept


def _extensions(assets: Mapping[str, Any], fields: Mapping[str, Any]) -> list[str]:
    """Return the extensions of which a collection holds a field: the schemas refuse the others."""
    of_bands = {name.partition(":")[0] for asset in assets.values() for band in asset.get("bands", []) for name in band}
    found = [Extension.PROCESSING, Extension.SCIENTIFIC]
    found += [extension for name, extension in _OF_BANDS.items() if name in of_bands]
    if "renders" in fields:
        found.append(Extension.RENDER)
    return [str(extension) for extension in found]


_OF_BANDS = {"eo": Extension.EO, "raster": Extension.RASTER, "classification": Extension.CLASSIFICATION}
