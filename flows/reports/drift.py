"""Drift for people: the section of a product's report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from flows.drift.compare import DriftReport, FeatureDrift
from flows.drift.statistics import REFLECTANCE, feature_of
from flows.reports.charts import band_color, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_REPORT = TypeAdapter(DriftReport)


def drift_parts(metadata: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what the template shows of a product's drift; None where it was not measured."""
    drift = metadata.get("drift")
    if drift is None:
        return None
    if drift["comparison"] is None:
        return {"rows": [], "note": drift["note"]}
    report = _REPORT.validate_python(drift["comparison"])
    return {
        "verdict": report.verdict,
        "sentence": report.sentence,
        "made_of": report.training["made_of"],
        "left_out": report.left_out,
        "rows": [{"label": f.label, "cells": shown_figures(f), "verdict": f.verdict} for f in report.features],
        "chart": reflectance_chart(report.features),
    }


def shown_figures(feature: FeatureDrift) -> list[str]:
    """Return the cells of a feature in a table: here, in training, stability index, its alarm, shift, its alarm."""
    return ["–" if value is None else f"{value:.3g}" for value in feature.figures.values()]


def reflectance_chart(features: Sequence[FeatureDrift]) -> str:
    """Return the distributions of clear ground by band as an SVG element; empty without any."""
    bands = [feature for feature in features if feature.name.startswith(REFLECTANCE)]
    if not bands:
        return ""
    return svg("drift", "Reflectance of clear ground by band, here and in training", lambda axes: _draw(axes, bands))


def _draw(axes: Axes, bands: Sequence[FeatureDrift]) -> None:
    for feature in bands:
        band = feature.name.removeprefix(REFLECTANCE)
        edges = feature_of(feature.name).edges
        ends = [*edges, 2 * edges[-1] - edges[-2]]
        widths = [100 * (upper - lower) for lower, upper in pairwise(ends)]
        for shares, line, label in ((feature.shares, "-", band), (feature.training_shares, ":", None)):
            heights = [100 * share / width for share, width in zip(shares, widths, strict=True)]
            axes.stairs(heights, ends, color=band_color(band), linestyle=line, label=label, linewidth=1.6)
    axes.set_xlim(0, 0.6)
    axes.set_xlabel("reflectance")
    axes.set_ylabel("% of values per 0.01")
    axes.legend(fontsize=9)
