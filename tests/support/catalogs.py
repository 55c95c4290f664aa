"""What is wrong with a catalog that a test published, and with the fields of its items."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stac.catalog.check import ProblemKind, check_catalog
from stac.product.fields import FIELDS, ItemKind, Place

#: What readers may see while somebody publishes, and what the next run repairs: sums and links follow the items.
_ON_THE_WAY = frozenset({ProblemKind.ORPHAN, ProblemKind.COUNT, ProblemKind.EXTENT})


def problems_in(root: Path, *, publishing: bool = False) -> list[str]:
    """Return everything that is wrong with a catalog in a folder, nothing when all is well.

    Args:
        root: the folder.
        publishing: pass over what lasts until a publisher has finished, or the next run has repaired it.
    """
    found = check_catalog(root).problems
    return [f"{each.place}: {each.message}" for each in found if not (publishing and each.code in _ON_THE_WAY)]


def kind_of(item: dict[str, Any]) -> ItemKind:
    """Return the kind of an item by its collection and properties."""
    if item["collection"] == "unveil-models":
        return ItemKind.MODEL
    if item["collection"] == "unveil-mosaics":
        return ItemKind.REGION if "unveil:cells" in item["properties"] else ItemKind.MOSAIC
    return ItemKind.PRODUCT


def undocumented(item: dict[str, Any]) -> list[str]:
    """Return the fields of an item that the reference of its kind does not have, with their places."""
    assets = list(item["assets"].values())
    bands = [band for asset in assets for band in asset.get("bands", ())]
    found: dict[Place, set[str]] = {
        Place.PROPERTIES: set(item["properties"]),
        Place.LINKS: {link["rel"] for link in item["links"]},
        Place.ASSETS: set().union(*assets) - {"href", "type", "title", "description", "roles", "bands"},
        Place.BANDS: set().union(*bands),
    }
    return [
        f"{place}: {name}" for place, names in found.items() for name in sorted(names) if not _known(item, place, name)
    ]


def _known(item: dict[str, Any], place: Place, name: str) -> bool:
    names = [n for f in FIELDS if f.place is place and kind_of(item) in f.kinds for n in f.names]
    return name in names or any(n.endswith("*") and name.startswith(n[:-1]) for n in names)
