"""The report of a product: one HTML page that needs no other file."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image
from pydantic import TypeAdapter

from flows.drift.compare import DriftReport
from flows.reports.charts import charts_of, color_of, data_uri, label_of, maps_of, reflectance_chart
from stac.errors import InvalidInput
from stac.io.files import writing
from stac.product.layers import Provenance

if TYPE_CHECKING:
    import xarray as xr

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
    "dates": "The area that each date saw; the restored date is green.",
}
_UNDEFINED = "–"
_DRIFT = TypeAdapter(DriftReport)
_ENVIRONMENT = Environment(
    loader=PackageLoader("flows", "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
)
_COLOURS = ("red", "green", "blue")
#: Reflectance that is white, and the exponent that lifts what is dark.
_WHITE, _GAMMA = 0.28, 1 / 1.6


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


def drift_parts(metadata: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what the template shows of a product's drift; None where it was not measured."""
    drift = metadata.get("drift")
    if drift is None:
        return None
    if drift["comparison"] is None:
        return {"rows": [], "note": drift["note"]}
    report = _DRIFT.validate_python(drift["comparison"])
    return {
        "verdict": report.verdict,
        "sentence": report.sentence,
        "note": " ".join([report.sentence, *report.left_out]),
        "made_of": report.training["made_of"],
        "left_out": report.left_out,
        "rows": [{"label": f.label, "cells": f.shown, "verdict": f.verdict} for f in report.features],
        "chart": reflectance_chart(report.features),
    }


def write_report(folder: Path, item_id: str, metadata: Mapping[str, Any]) -> Path:
    """Write `report.html` into a product's folder; its layers and `quicklook.png` must be there.

    Raises:
        DiskFull, NotWritable: the folder cannot be written.
    """
    page = _ENVIRONMENT.get_template("report.html.j2").render(
        item_id=item_id,
        picture=data_uri(folder / "quicklook.png"),
        classes=_classes(metadata["areas_km2"]),
        warnings=warnings_of(metadata),
        maps=maps_of(folder),
        target_date=metadata["sources"][0]["date"] if metadata["sources"] else "",
        **{**metadata, **quality_parts(metadata), "drift": drift_parts(metadata)},
    )
    path = folder / "report.html"
    with writing(path):
        path.write_text(page, "utf-8")
    return path


def _classes(areas: Mapping[str, float]) -> list[dict[str, Any]]:
    """Return the rows of the table of areas; shares are of the area with data."""
    valid = sum(km2 for name, km2 in areas.items() if name != Provenance.NODATA.name.lower())
    rows = []
    for p in Provenance:
        km2 = areas[p.name.lower()]
        share = percent(km2 / valid) if valid and p is not Provenance.NODATA else ""
        rows.append({"label": p.label, "description": p.description, "color": p.color, "km2": km2, "share": share})
    return rows


def warnings_of(metadata: Mapping[str, Any]) -> list[str]:
    """Return what a reader must know before trusting the product, one sentence each."""
    figures, found = metadata["figures"], []
    valid = figures["valid_km2"] or 1.0
    if figures["model_km2"] / valid > 0.05:
        found.append(
            f"{figures['model_km2'] / valid:.0%} of the area was seen on no date and is estimated, from the ground "
            "around or by the model."
        )
    if figures["cloudy_km2"] / valid > 0.9:
        found.append("More than nine tenths of the scene are hidden: little of it can be matched to the target date.")
    if figures["not_recoverable_km2"]:
        found.append(f"{figures['not_recoverable_km2']:.1f} km² could not be restored and are nodata.")
    found += metadata.get("quality", {}).get("figures", {}).get("warnings", [])
    return found + [f"A scene was left out: {reason}" for reason in metadata["dropped"]]


@dataclass(frozen=True)
class Slider:
    """Markup that a notebook shows; it needs no network."""

    html: str = field(repr=False)

    def _repr_html_(self) -> str:
        return self.html


def slider(before: xr.Dataset, after: xr.Dataset, width: int) -> Slider:
    """Return two images of one place as a slider.

    Args:
        before: `red`, `green` and `blue` on `(y, x)`, reflectance.
        after: likewise.
        width: pixels.

    Raises:
        InvalidInput: a colour is missing, or an image has a time axis.
    """
    script = files("flows").joinpath("templates", "image-compare.js").read_text("utf-8")
    frame = f"display:block;position:relative;overflow:hidden;width:{width}px;cursor:ew-resize"
    over = "width:100%;max-width:none;display:block;margin:0"
    pictures = (
        f'<img style="{over}" src="{_picture(before, width)}" alt="before">'
        f'<img style="{over};position:absolute;inset:0;height:100%" src="{_picture(after, width)}" alt="after">'
    )
    return Slider(f'<image-compare style="{frame}">{pictures}</image-compare><script>{script}</script>')


def _picture(image: xr.Dataset, width: int) -> str:
    """Return an image for the eye as a JPEG in an address."""
    missing = [name for name in _COLOURS if name not in image or image[name].ndim != 2]
    if missing:
        raise InvalidInput(
            f"{', '.join(missing)} is not an image (y, x) of the dataset; choose one date with `.sel(time=...)`."
        )
    rgb = np.stack([image[name].values for name in _COLOURS], axis=-1)
    eye = (255 * np.clip(np.nan_to_num(rgb) / _WHITE, 0, 1) ** _GAMMA).astype(np.uint8)
    drawn, buffer = Image.fromarray(eye), BytesIO()
    drawn.resize((width, max(1, width * drawn.height // drawn.width))).save(buffer, "JPEG", quality=75)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
