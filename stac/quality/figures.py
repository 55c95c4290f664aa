"""The figures of a product's quality: small records that turn into JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from stac.quality.measures import Seam

#: Lower edges of the bins of `GroupFigures.half_widths`, reflectance; the last bin has no end.
HALF_WIDTH_EDGES = tuple(round(0.0025 * i, 4) for i in range(41))
#: Likewise of `GroupFigures.reference_weights`; the last bin holds a share of 1.
WEIGHT_EDGES = tuple(round(0.05 * i, 2) for i in range(21))


@dataclass(frozen=True, slots=True)
class GroupFigures:
    """One class of restored pixels, or all together. None where a figure is not defined."""

    pixels: int
    #: Half-width of the 90 % interval, reflectance, over pixels and bands.
    half_width_mean: float | None
    half_width_p90: float | None
    #: Values per bin of `HALF_WIDTH_EDGES`.
    half_widths: tuple[int, ...]
    #: Mean share of the reference where the model ran.
    reference_weight: float | None
    #: Pixels per bin of `WEIGHT_EDGES` where the model ran.
    reference_weights: tuple[int, ...]
    #: Fine detail / that of observed surroundings; 1 is as sharp.
    sharpness: float | None
    #: Restored minus observed surroundings by band, reflectance.
    colour_shift: Mapping[str, float] | None
    ndvi_shift: float | None
    #: Share of the pixels that look like cloud.
    residual_cloud: float | None

    @property
    def largest_shift(self) -> float | None:
        """Largest absolute colour shift of any band, reflectance."""
        return max(map(abs, self.colour_shift.values())) if self.colour_shift else None


@dataclass(frozen=True, slots=True)
class SourceDate:
    """How much of a product one date saw."""

    #: ISO 8601 day.
    date: str
    km2: float


@dataclass(frozen=True, slots=True)
class QualityFigures:
    """What was measured on the written files of one product."""

    #: Square kilometres by lower-case class name.
    areas_km2: Mapping[str, float]
    #: By name, `restored` for all together; classes without pixels are left out.
    groups: Mapping[str, GroupFigures]
    seams: tuple[Seam, ...]
    #: Steps across all borders / steps beside them; 1 cannot be seen.
    seam_ratio: float | None
    #: Share of observed surroundings that the cloud test takes for cloud, and its threshold of HOT.
    observed_cloud: float | None
    cloud_threshold: float | None
    #: Share of the area with data on the target date that could not be restored; None for a product without any.
    not_recoverable: float | None
    #: Share of that area that is restored.
    restored_share: float | None
    dates: tuple[SourceDate, ...]
    #: How far surroundings reach, pixels.
    reach: int

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader of the figures must know, one sentence each."""
        found = [] if self.groups else ["Nothing was restored, so there is nothing to compare."]
        restored = self.groups.get("restored")
        if restored and restored.colour_shift is None:
            found.append("Too few observed pixels lie beside the restored ones to compare colour and sharpness.")
        if restored and restored.residual_cloud is None:
            found.append("Residual cloud was not tested: that needs blue, green and red.")
        if (self.observed_cloud or 0) > 0.05:
            found.append(
                f"{self.observed_cloud:.0%} of the observed surroundings look like cloud: the mask missed some, or the "
                "ground is bright; comparisons with them say less."
            )
        return tuple(found)

    def document(self) -> dict[str, Any]:
        """Return all figures as JSON values."""
        seams = [_seam(seam) for seam in self.seams]
        return asdict(self) | {"seams": seams, "warnings": list(self.warnings)}


def _seam(seam: Seam) -> dict[str, Any]:
    names = {"first": seam.first.name.lower(), "second": seam.second.name.lower()}
    return asdict(seam) | names
