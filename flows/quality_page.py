"""The quality part of a product's report, in words and numbers for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flows.charts import charts_of, color_of, label_of

#: What the figures of the gate say.
_MEANINGS = {
    "residual_cloud": "Share of the restored pixels that still look like cloud: bright, white and hazy.",
    "sharpness": "Fine detail of restored ground / that of observed surroundings; 1 is as sharp, less is blur.",
    "colour_shift": "Restored minus observed surroundings, in the band with the largest difference; reflectance.",
    "ndvi_shift": "Difference of mean NDVI between restored pixels and their observed surroundings.",
    "seam_ratio": "Steps across borders between classes / steps just beside them; 1 cannot be seen.",
    "half_width": "Mean half-width of the 90 % interval of restored pixels; reflectance.",
    "not_recoverable": "Share of the area with data that could not be restored and is nodata.",
}
_PERCENT = ("residual_cloud", "not_recoverable")
_CAPTIONS = {
    "half_width": "How wide the intervals are. The last bin holds everything wider.",
    "sharpness": "Left of the dotted line restored ground is smoother than its surroundings, right of it rougher.",
    "colour": "Clouds brighten the observed ground around them, so restored ground is often a little darker.",
    "seams": "Right of the dotted line a border is stronger than the ground beside it.",
    "dates": "The area that each date saw; the restored date is green.",
}
_UNDEFINED = "–"


def quality_parts(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the template shows of a product's quality; empty parts where it was not measured."""
    quality = metadata.get("quality")
    if quality is None:
        empty: dict[str, Any] = {"quality": None, "checks": [], "groups": [], "charts": {}, "captions": {}, "seen": {}}
        return empty | {"observed_cloud": ""}
    figures = quality["figures"]
    observed = figures["observed_cloud"]
    return {
        "quality": quality,
        "checks": [_check(check) for check in quality["gate"]["checks"]],
        "groups": [_group(name, group) for name, group in figures["groups"].items()],
        "charts": charts_of(quality, metadata["sources"][0]["date"] if metadata["sources"] else ""),
        "captions": _CAPTIONS,
        "seen": {entry["date"]: f"{entry['km2']:.2f}" for entry in figures["dates"]},
        "observed_cloud": percent(observed) if observed is not None else "",
    }


def percent(share: float | None) -> str:
    """Return a share as people read it."""
    if share is None:
        return _UNDEFINED
    return "< 0.01 %" if 0 < share < 1e-4 else f"{100 * share:.2f} %"


def _check(check: Mapping[str, Any]) -> dict[str, Any]:
    def show(value: float | None) -> str:
        if value is None:
            return _UNDEFINED
        return percent(value) if check["name"] in _PERCENT else f"{value:.3g}"

    lowest, highest = (None if check[side] is None else show(check[side]) for side in ("lowest", "highest"))
    limit = f"{lowest} to {highest}" if lowest and highest else f"≤ {highest}" if highest else f"≥ {lowest}"
    return {
        "label": check["label"],
        "meaning": _MEANINGS[check["name"]],
        "value": show(check["value"]),
        "limit": limit,
        "passed": check["passed"],
    }


def _group(name: str, group: Mapping[str, Any]) -> dict[str, Any]:
    def show(value: float | None, form: str = ".3f") -> str:
        return _UNDEFINED if value is None else format(value, form)

    shift = group["colour_shift"]
    band = max(shift, key=lambda b: abs(shift[b])) if shift else None
    return {
        "label": label_of(name),
        "color": color_of(name),
        "cells": [
            f"{group['pixels']:,}".replace(",", "\u202f"),
            show(group["half_width_mean"], ".4f"),
            show(group["half_width_p90"], ".4f"),
            show(group["sharpness"], ".2f"),
            f"{shift[band]:+.4f} ({band})" if shift and band else _UNDEFINED,
            show(group["ndvi_shift"], "+.3f"),
            percent(group["residual_cloud"]),
        ],
    }
