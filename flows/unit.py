"""One work unit from scenes to a published item; plain functions that tasks call."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import torch

from de_model import checkpoint
from de_model.enhancer import Enhancer
from flows import __version__
from flows.errors import InvalidSettings
from flows.report import write_report
from flows.restoration import Restored, restore_date
from flows.scenes import write_json
from flows.settings import Device, RunSettings
from flows.work import ModelRef, WorkUnit, target_cell
from stac.items import ProductRecord, areas_km2, build_item
from stac.layers import ProductLayers
from stac.masks.classes import is_obscured
from stac.product import write_product
from stac.provenance import Provenance
from stac.publish import StaticCatalog
from stac.stack import Stack, read_stack


@dataclass(frozen=True, slots=True)
class UnitFigures:
    """What was done to one date."""

    #: Areas, square kilometres.
    valid_km2: float
    cloudy_km2: float
    other_dates_km2: float
    model_km2: float
    not_recoverable_km2: float
    #: Mean half-width of the 90 % interval over restored pixels, reflectance; 0 without any.
    mean_uncertainty: float
    #: Mean W over the pixels the model restored; 0 without any.
    mean_reference_weight: float
    tiles: int
    seconds: float


@lru_cache(maxsize=2)
def load_model(weights: str, sha256: str, device: Device) -> Enhancer:
    """Return the model of a weights file; the same one for all units of a process.

    Raises:
        InvalidCheckpoint: the file is not the registered one, or not a model.
        InvalidSettings: a GPU was asked for and there is none.
    """
    del sha256  # part of the cache's key; checked when the file was fetched
    if device is Device.CUDA and not torch.cuda.is_available():
        raise InvalidSettings("Device cuda was asked for, but torch sees no GPU; use --device auto or cpu.")
    on_gpu = device is Device.CUDA or (device is Device.AUTO and torch.cuda.is_available())
    return checkpoint.load(Path(weights), "cuda" if on_gpu else "cpu")


def make_product(
    unit: WorkUnit,
    items: Mapping[str, pystac.Item],
    settings: RunSettings,
    model: ModelRef,
    staging: Path,
    on_tile: Callable[[int, int], None] | None = None,
) -> UnitFigures:
    """Restore one date and write all files of its product, its item included, into `staging`.

    Raises:
        InvalidInput: the target cannot be used.
        UnreadableAsset: the target's pixels cannot be read.
        DiskFull, NotWritable: the folder cannot be written.
    """
    began = time.monotonic()
    enhancer = load_model(model.weights, model.sha256, settings.device)
    target, donors = items[unit.target_id], [items[i] for i in unit.donor_ids]
    cell = target_cell(target, settings)
    stack = read_stack([target, *donors], cell, settings.bands, settings.reading, required={target.id})
    read_seconds = time.monotonic() - began
    restored = restore_date(stack, 0, enhancer, settings.restoration, on_tile)
    write_product(restored.layers, staging)
    figures = figures_of(restored, stack, time.monotonic() - began)
    timings = {"read": read_seconds, "prior": restored.prior_seconds, "model": restored.model_seconds}
    used = tuple(items[i] for i in stack.item_ids[1:])
    record = _record(unit, settings, model, target, used, figures)
    metadata = _metadata(unit, settings, model, stack, restored, figures, timings)
    write_json(staging / "metadata.json", metadata)
    write_report(staging, record.item_id, metadata)
    item = build_item(record, restored.layers, staging)
    write_json(staging / ITEM_FILE, item.to_dict(include_self_link=False, transform_hrefs=False))
    return figures


#: The item waits here until it is published under its own name.
ITEM_FILE = "staged-item.json"


def publish_product(staging: Path, settings: RunSettings, source_collection: Mapping[str, Any]) -> Path:
    """Publish a staged product; return the path of its item.

    Raises:
        PublishError: it could not be published; the catalog is as it was.
    """
    item = pystac.Item.from_file(str(staging / ITEM_FILE))
    item.set_self_href(None)
    (staging / ITEM_FILE).unlink()
    path: Path = StaticCatalog(settings.out).publish(staging, item, source_collection)
    return path


def figures_of(restored: Restored, stack: Stack, seconds: float) -> UnitFigures:
    """Return the figures of a restored date; the target is the stack's first."""
    layers = restored.layers
    area = {p: float((layers.provenance == p).sum()) * _pixel_km2(layers) for p in Provenance}
    synthetic = ~np.isin(layers.provenance, (Provenance.NODATA, Provenance.OBSERVED, Provenance.NOT_RECOVERABLE))
    by_model = np.isfinite(layers.reference_weight)
    model_classes = (Provenance.THIN_CLOUD_CORRECTED, Provenance.REFERENCE_FILLED, Provenance.GENERATED)
    return UnitFigures(
        valid_km2=sum(area.values()) - area[Provenance.NODATA],
        cloudy_km2=float(is_obscured(stack.classes[0]).sum()) * _pixel_km2(layers),
        other_dates_km2=area[Provenance.OBSERVED_OTHER_DATE],
        model_km2=sum(area[p] for p in model_classes),
        not_recoverable_km2=area[Provenance.NOT_RECOVERABLE],
        mean_uncertainty=_mean(layers.uncertainty[:, synthetic]),
        mean_reference_weight=_mean(layers.reference_weight[by_model]),
        tiles=restored.tiles,
        seconds=seconds,
    )


def _pixel_km2(layers: ProductLayers) -> float:
    resolution = layers.geobox.resolution
    return abs(float(resolution.x) * float(resolution.y)) / 1e6


def _mean(values: np.ndarray[Any, np.dtype[np.float32]]) -> float:
    return float(np.mean(values)) if values.size else 0.0


def _record(
    unit: WorkUnit,
    settings: RunSettings,
    model: ModelRef,
    target: pystac.Item,
    donors: tuple[pystac.Item, ...],
    figures: UnitFigures,
) -> ProductRecord:
    quality = {
        "mean_uncertainty": figures.mean_uncertainty,
        "mean_reference_weight": figures.mean_reference_weight,
        "model_tiles": float(figures.tiles),
    }
    return ProductRecord(
        item_id=unit.item_id,
        work_id=unit.work_id,
        target=_archived(target),
        donors=tuple(_archived(donor) for donor in donors),
        cell_id=unit.cell_id,
        model_name=model.name,
        model_version=model.version,
        model_sha256=model.sha256,
        seed=settings.seed,
        parameters=settings.parameters,
        quality=quality,
        software_version=__version__,
        created=datetime.now(UTC),
    )


def _archived(item: pystac.Item) -> pystac.Item:
    """Return the item under its archive's address where it names one, not under that of a passing server."""
    canonical = item.get_single_link("canonical")
    if canonical is not None:
        item.set_self_href(str(canonical.href))
    return item


def _metadata(
    unit: WorkUnit,
    settings: RunSettings,
    model: ModelRef,
    stack: Stack,
    restored: Restored,
    figures: UnitFigures,
    timings: Mapping[str, float],
) -> dict[str, Any]:
    """Return everything that made the product, as JSON values."""
    fits = restored.prior.fits if restored.prior else ()
    return {
        "unit": asdict(unit),
        "model": {"name": model.name, "version": model.version, "sha256": model.sha256},
        "parameters": settings.parameters,
        "software": {"unveil-eo": __version__, "torch": torch.__version__, "numpy": np.__version__},
        "sources": [
            {"id": item_id, "date": str(np.datetime64(int(day), "D"))}
            for item_id, day in zip(stack.item_ids, stack.days, strict=True)
        ],
        "dropped": list(stack.dropped),
        "areas_km2": areas_km2(restored.layers),
        "figures": asdict(figures),
        "harmonisation": [asdict(fit) for fit in fits],
        "seconds": dict(timings),
    }
