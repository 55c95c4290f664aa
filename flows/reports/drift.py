"""Drift for people: the section of a product's report, and the table of a run's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from flows.drift.compare import Verdict
from flows.drift.statistics import feature_of
from flows.reports.charts import band_color, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_UNDEFINED = "–"
_REFLECTANCE = "reflectance."


def drift_parts(metadata: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what the template shows of a product's drift; None where it was not measured."""
    drift = metadata.get("drift")
    if drift is None:
        return None
    comparison = drift["comparison"]
    if comparison is None:
        return {"rows": [], "note": drift["note"]}
    return {
        "verdict": comparison["verdict"],
        "sentence": comparison["sentence"],
        "made_of": comparison["training"]["made_of"],
        "left_out": comparison["left_out"],
        "rows": [_row(feature) for feature in comparison["features"]],
        "chart": reflectance_chart(comparison["features"]),
    }


def drift_markdown(comparison: Mapping[str, Any] | None) -> str:
    """Return the section of a run's report; empty where nothing was compared."""
    if comparison is None:
        return ""
    moved = [f for f in comparison["features"] if f["verdict"] != Verdict.STABLE]
    lines = ["", "## Drift", "", comparison["sentence"], *(f"- {feature['sentence']}" for feature in moved)]
    return "\n".join(lines) + "\n"


def drift_table(features: Sequence[Mapping[str, Any]]) -> str:
    """Return all features as a markdown table."""
    head = "| feature | here | in training | stability index | alarm above | shift | alarm above | verdict |"
    rows = ((row["label"], *row["cells"], row["verdict"]) for row in map(_row, features))
    return "\n".join([head, "|---" * 8 + "|", *("| " + " | ".join(cells) + " |" for cells in rows)])


def reflectance_chart(features: Sequence[Mapping[str, Any]]) -> str:
    """Return the distributions of clear ground by band as an SVG element; empty without any."""
    bands = [feature for feature in features if feature["name"].startswith(_REFLECTANCE)]
    if not bands:
        return ""
    return svg("drift", "Reflectance of clear ground by band, here and in training", lambda axes: _draw(axes, bands))


def _draw(axes: Axes, bands: Sequence[Mapping[str, Any]]) -> None:
    for feature in bands:
        band = feature["name"].removeprefix(_REFLECTANCE)
        edges = feature_of(feature["name"]).edges
        ends, widths = [*edges, 2 * edges[-1] - edges[-2]], _widths(edges)
        for shares, line, label in (("shares", "-", band), ("training_shares", ":", None)):
            heights = [100 * share / width for share, width in zip(feature[shares], widths, strict=True)]
            axes.stairs(heights, ends, color=band_color(band), linestyle=line, label=label, linewidth=1.6)
    axes.set_xlim(0, 0.6)
    axes.set_xlabel("reflectance")
    axes.set_ylabel("% of values per 0.01")
    axes.legend(fontsize=9)


def _widths(edges: Sequence[float]) -> list[float]:
    """Return the widths of bins in steps of 0.01."""
    widths = [100 * (upper - lower) for lower, upper in pairwise(edges)]
    return [*widths, widths[-1]]


def _row(feature: Mapping[str, Any]) -> dict[str, Any]:
    def show(value: float | None) -> str:
        return _UNDEFINED if value is None else f"{value:.3g}"

    psi, shift = feature["psi"] or {"value": None, "alarm": None}, feature["shift"]
    values = (feature["mean"], feature["training_mean"], psi["value"], psi["alarm"], shift["value"], shift["alarm"])
    return {"label": feature["label"], "cells": [show(value) for value in values], "verdict": feature["verdict"]}
