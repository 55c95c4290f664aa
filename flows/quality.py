"""The quality of a staged product: measured, judged, and written into its item."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pystac

from stac.catalog.publish import StaticCatalog
from stac.catalog.shelves import GATE, GATE_LIMITS, GATE_REASONS, GateState, Shelf
from stac.quality.assess import assess
from stac.quality.figures import QualityFigures
from stac.quality.gate import Gate, Verdict, gate_document, judge

#: How the note of a unit begins whose product failed the gate.
NEEDS_REVIEW = "needs review"


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
            item.properties[GATE_LIMITS] = gate_document(self.gate)
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


def review_note(catalog: StaticCatalog, item_id: str) -> str:
    """Return why a published item waits for review, empty where it does not.

    Raises:
        InvalidProduct: the item cannot be read.
    """
    properties = (catalog.beside(Shelf.REVIEW).document(item_id) or {}).get("properties", {})
    if properties.get(GATE) != GateState.FAILED:
        return ""
    return f"{NEEDS_REVIEW}: {' '.join(properties.get(GATE_REASONS, []))}"
