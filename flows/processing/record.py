"""What a product says about itself: figures, quality, and all that an item and `metadata.json` record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import torch

from flows import __version__
from flows.processing.blocks import Effort
from flows.processing.inputs import Inputs
from stac.catalog.product_collections import GATE, GATE_LIMITS, GATE_REASONS, GateState
from stac.load.dataset import radiometry_of
from stac.product.item import ProductRecord
from stac.product.layers import Provenance
from stac.product.model_item import model_item_href
from stac.product.writer import ProductSummary
from stac.quality.assess import assess
from stac.quality.figures import QualityFigures
from stac.quality.gate import Gate, Verdict, judge

#: What pixels depend on beside Unveil.
_SOFTWARE = {"torch": torch.__version__, "numpy": np.__version__}


@dataclass(frozen=True, slots=True)
class Quality:
    """What was measured on a product, and what the gate said."""

    figures: QualityFigures
    #: Against the limits of the gate, or the defaults where it is off.
    verdict: Verdict
    #: None where the gate is off.
    gate: Gate | None

    @property
    def state(self) -> GateState:
        """What the gate said."""
        if self.gate is None:
            return GateState.OFF
        return GateState.PASSED if self.verdict.passed else GateState.FAILED

    @property
    def document(self) -> dict[str, Any]:
        """All of it as JSON values, for `metadata.json` and the report."""
        verdict = self.verdict.document() | {"state": self.state.value}
        return {"figures": self.figures.document(), "gate": verdict}

    def mark(self, item: pystac.Item) -> None:
        """Write figures and verdict into an item's properties."""
        numbers = {check.name: round(check.value, 6) for check in self.verdict.checks if check.value is not None}
        item.properties["unveil:quality"] = {**item.properties.get("unveil:quality", {}), **numbers}
        item.properties[GATE] = self.state.value
        if self.gate is not None:
            item.properties[GATE_LIMITS] = asdict(self.gate)
        if self.state is GateState.FAILED:
            item.properties[GATE_REASONS] = list(self.verdict.reasons)


def quality_of(staging: Path, bands: Sequence[str], gate: Gate | None) -> Quality:
    """Measure and judge the product whose layers lie in a folder.

    Args:
        staging: the folder.
        bands: common names in the order of data.tif.
        gate: thresholds, None to let every product pass.

    Raises:
        InvalidProduct: a layer is missing or cannot be read.
    """
    figures = assess(staging, bands)
    return Quality(figures, judge(figures, gate or Gate()), gate)


@dataclass(frozen=True, slots=True)
class UnitFigures:
    """What was done to one date."""

    #: Areas, square kilometres.
    valid_km2: float
    cloudy_km2: float
    other_dates_km2: float
    #: Hidden on every date and filled, by the model or, of these, from the ground around.
    model_km2: float
    interpolated_km2: float
    not_recoverable_km2: float
    #: Mean half-width of the 90 % interval over restored pixels, reflectance; 0 without any.
    mean_uncertainty: float
    #: Mean W over the pixels the model restored; 0 without any.
    mean_reference_weight: float
    #: Blocks made and model tiles run by this run; those of an interrupted one before are not counted.
    blocks: int
    tiles: int
    seconds: float


def figures_of(summary: ProductSummary, effort: Effort, seconds: float) -> UnitFigures:
    """Return the figures of a restored date."""
    area = {p: summary.areas_km2[p.name.lower()] for p in Provenance}
    model_classes = (Provenance.THIN_CLOUD_CORRECTED, Provenance.REFERENCE_FILLED, Provenance.GENERATED)
    valid = sum(area.values()) - area[Provenance.NODATA]
    return UnitFigures(
        valid_km2=valid,
        cloudy_km2=valid - area[Provenance.OBSERVED],
        other_dates_km2=area[Provenance.OTHER_DATES],
        model_km2=sum(area[p] for p in model_classes),
        interpolated_km2=summary.interpolated * summary.pixel_km2,
        not_recoverable_km2=area[Provenance.NOT_RECOVERABLE],
        mean_uncertainty=summary.mean_uncertainty,
        mean_reference_weight=summary.mean_reference_weight,
        blocks=effort.blocks,
        tiles=effort.tiles,
        seconds=seconds,
    )


def record_of(inputs: Inputs, figures: UnitFigures) -> ProductRecord:
    """Return what an item says of a product."""
    unit, model, settings = inputs.unit, inputs.model, inputs.settings
    target, *others = map(_archived, inputs.scenes)
    return ProductRecord(
        item_id=unit.item_id,
        work_id=unit.work_id,
        target=target,
        source_dates=tuple(others),
        cell_id=unit.cell_id,
        model_name=model.name,
        model_version=model.version,
        model_sha256=model.sha256,
        model_href=model_item_href(model.name, model.sha256),
        fillers=_fillers(inputs),
        software=_SOFTWARE,
        seed=settings.seed,
        parameters={**settings.parameters, **inputs.chosen},
        quality={name: getattr(figures, name) for name in ("mean_uncertainty", "mean_reference_weight")},
        software_version=__version__,
        created=datetime.now(UTC),
    )


def _fillers(inputs: Inputs) -> dict[str, str]:
    """Return what each kind of pixel was filled by."""
    return {str(kind): str(filler) for kind, filler in inputs.options.fillers.items()}


def _archived(item: pystac.Item) -> pystac.Item:
    """Return the item under its archive's address where it names one, not under that of a passing server."""
    canonical = item.get_single_link("canonical")
    if canonical is None:
        return item
    # Of a copy: the hrefs of the item's own assets would be taken for paths on the archive's server.
    archived = item.clone()
    archived.set_self_href(str(canonical.href))
    return archived


def metadata_of(
    inputs: Inputs, summary: ProductSummary, figures: UnitFigures, quality: Quality, timings: Mapping[str, float]
) -> dict[str, Any]:
    """Return everything that made a product, as JSON values."""
    unit, model, settings, composite = inputs.unit, inputs.model, inputs.settings, inputs.prepared.composite
    dates, overview = inputs.registered.dates, inputs.registered.overview
    return {
        "unit": {k: v for k, v in asdict(unit).items() if k != "composite"} | {"target_id": unit.target_id},
        "model": {name: getattr(model, name) for name in ("name", "version", "sha256", "calibration", "validation")},
        "parameters": settings.parameters,
        "software": {"unveil-eo": __version__, **_SOFTWARE},
        "sources": [
            {"id": scene.id, "date": str(np.datetime64(int(day), "D"))}
            | {"radiometry": radiometry_of(scene, settings.bands[0], settings.reading)}
            for date, day in zip(dates, overview.days, strict=True)
            for scene in date.items
        ],
        "dropped": [*unit.left_out, *overview.dropped],
        "areas_km2": summary.areas_km2,
        "figures": asdict(figures),
        "normalisation": [asdict(fit) for fit in (composite.fits if composite else ())],
        "seconds": dict(timings),
        "shifts_px": inputs.registered.document,
        "fillers": {"kinds": _fillers(inputs), "pixels": summary.pixels_by_filler},
        "quality": quality.document,
    }
