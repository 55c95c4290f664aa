"""Finding scenes, and handing them from task to task as files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pystac

from flows.settings import SAMPLE, RunSettings
from stac.errors import EmptySearch
from stac.io import files as storage
from stac.io.files import writing
from stac.search.opening import Source, open_source
from stac.search.static import sample_catalog


def source_of(settings: RunSettings) -> str:
    """Return the location of the source: the static catalog that ships for `sample`, else what the settings name."""
    return str(sample_catalog()) if settings.source == SAMPLE else settings.source


def find_scenes(settings: RunSettings, location: str) -> tuple[list[pystac.Item], Source]:
    """Return all scenes of `settings.search`, and the source they are from.

    Raises:
        EmptySearch: the search matched nothing; items that it passed over are in `skipped` of the source.
        InvalidQuery: the collection does not exist, or area or interval make no sense.
    """
    source = open_source(location, settings.patience, settings.access)
    items = source.search(settings.search)
    if not (items or source.skipped):
        area = f" within {settings.bbox}" if settings.bbox else ""
        raise EmptySearch(
            f"{source.describe()} has no scene of {settings.collection} in {settings.datetime}{area}; "
            "widen --datetime or move --bbox."
        )
    return items, source


def write_json(path: Path, document: Mapping[str, Any]) -> Path:
    """Write a JSON file, whole or not at all, and return its path; its folder is made.

    Raises:
        DiskFull, NotWritable: it cannot be written.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    storage.write_json(path, document)
    return path


def write_items(path: Path, items: list[pystac.Item]) -> Path:
    """Write items as a feature collection with absolute hrefs."""
    features = [item.to_dict(include_self_link=True, transform_hrefs=False) for item in items]
    return write_json(path, {"type": "FeatureCollection", "features": features})


def read_items(path: Path) -> dict[str, pystac.Item]:
    """Return the items of a feature collection by id."""
    features = json.loads(path.read_text("utf-8"))["features"]
    return {feature["id"]: pystac.Item.from_dict(feature) for feature in features}
