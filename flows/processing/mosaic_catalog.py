"""The mosaics of a catalog: its collection, ids of regions, and the radiometry that a published mosaic fixed."""

from __future__ import annotations

from typing import Any

from flows.planning.mosaics import MosaicPlan
from flows.planning.workunit import work_id_of
from flows.processing.publishing import catalog_of
from flows.settings import RunSettings
from stac.catalog.documents import MOSAICS_COLLECTION
from stac.catalog.publish import StaticCatalog


def mosaics_of(settings: RunSettings) -> StaticCatalog:
    """Return the collection of mosaics of the catalog of some settings."""
    return catalog_of(settings, MOSAICS_COLLECTION)


def region_id(plan: MosaicPlan, method: str) -> str:
    """Return what the item of a region is a version of."""
    return f"{plan.region.name}-{plan.period.name}-{method}-region"


def region_work_id(plan: MosaicPlan) -> str:
    """Return the work id of the item of a region: it follows from those of its cells."""
    return work_id_of({"region": plan.region.name, "cells": sorted(unit.work_id for unit in plan.units)})


def known_radiometry(settings: RunSettings, region: str, period: str, start: str, method: str) -> dict[str, Any] | None:
    """Return the radiometry document of the newest published mosaic of a region and period; None where there is none.

    Args:
        settings: of the run.
        region: name of the region.
        period: name of the period.
        start: its first instant, RFC 3339.
        method: of the mosaic.
    """
    catalog = mosaics_of(settings)
    found = catalog.versions(f"{region}-{period}-{method}-region-unveil-00000000", start)
    if not found:
        return None
    newest = max(found, key=lambda document: int(document["properties"].get("version", "0")))
    if newest["properties"].get("unveil:bands", list(settings.bands)) != list(settings.bands):
        return None
    href = str(newest["assets"]["radiometry"]["href"]).removeprefix("./")
    return catalog.target.read(f"{MOSAICS_COLLECTION}/{newest['id']}/{href}")
