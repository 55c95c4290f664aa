"""Reports for people: HTML beside the product, markdown and a table for the run."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from flows.candidates import Cause
from flows.drift.page import drift_markdown, drift_parts
from flows.maps import maps_of
from flows.quality_page import percent, quality_parts
from stac.io.files import writing
from stac.product.layers import Provenance

#: Of a table artifact.
_ROWS = 1000
_ENVIRONMENT = Environment(
    loader=PackageLoader("flows", "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
)


def write_report(folder: Path, item_id: str, metadata: Mapping[str, Any]) -> Path:
    """Write `report.html` into a product's folder; its layers and `quicklook.png` must be there.

    Args:
        folder: the staging folder.
        item_id: title of the report.
        metadata: the content of `metadata.json`.

    Raises:
        DiskFull, NotWritable: the folder cannot be written.
    """
    page = _ENVIRONMENT.get_template("report.html.j2").render(
        item_id=item_id,
        picture=data_uri(folder / "quicklook.png"),
        classes=_classes(metadata["areas_km2"]),
        warnings=warnings_of(metadata),
        maps=_maps(folder),
        target_date=metadata["sources"][0]["date"] if metadata["sources"] else "",
        **{**metadata, **quality_parts(metadata), "drift": drift_parts(metadata)},
    )
    path = folder / "report.html"
    with writing(path):
        path.write_text(page, "utf-8")
    return path


def data_uri(picture: Path | bytes) -> str:
    """Return a PNG as a `data:` URI, so that a page needs no other file."""
    content = picture if isinstance(picture, bytes) else picture.read_bytes()
    return "data:image/png;base64," + base64.b64encode(content).decode("ascii")


def _classes(areas: Mapping[str, float]) -> list[dict[str, Any]]:
    """Return the rows of the table of areas; shares are of the area with data."""
    valid = sum(km2 for name, km2 in areas.items() if name != Provenance.NODATA.name.lower())
    rows = []
    for p in Provenance:
        km2 = areas[p.name.lower()]
        share = percent(km2 / valid) if valid and p is not Provenance.NODATA else ""
        rows.append({"label": p.label, "description": p.description, "color": p.color, "km2": km2, "share": share})
    return rows


def _maps(folder: Path) -> list[dict[str, Any]]:
    return [
        {"title": m.title, "description": m.description, "picture": data_uri(m.png), "keys": m.keys}
        for m in maps_of(folder)
    ]


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


def run_markdown(summary: Mapping[str, Any]) -> str:
    """Return the report of a run as markdown."""
    title = f"# clear-scenes {summary['run_id']}"
    origin = (
        f"Source `{summary['source']}`, collection `{summary['collection']}`, {summary['datetime']}; "
        f"model {summary['model']['name']} version {summary['model']['version']}."
    )
    head = "| target | state | cloudy km² | from other dates km² | in gaps km² | seconds | note |"
    table = "\n".join([head, "|---|---|---|---|---|---|---|", *(_row(unit) for unit in summary["units"])])
    remade = "".join(f"\n- Made again: {reason}" for reason in summary["remade"])
    passed = Counter(str(each["cause"]) for each in summary["left_out"])
    left_out = ", ".join(f"{number} for {cause}" for cause, number in passed.items())
    notes = f"{remade}\n\nLeft out: {left_out or 'nothing'}.\n"
    return f"{title}\n\n{origin}\n\n{table}\n{notes}{drift_markdown(summary.get('drift'))}"


def _row(unit: Mapping[str, Any]) -> str:
    f = unit["figures"] or {}
    numbers = [f"{f[name]:.1f}" if f else "" for name in ("cloudy_km2", "other_dates_km2", "model_km2", "seconds")]
    # A pipe or a line break in a message would end the cell.
    note = _note(unit).replace("|", "/").replace("\n", " ")
    return f"| {unit['target_id']} | {unit['state']} | {' | '.join(numbers)} | {note} |"


def unit_table(units: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of the Prefect table artifact."""
    return [
        {
            "target": u["target_id"],
            "state": u["state"],
            "item": u["item_href"],
            "error": u["error"] or u.get("note", ""),
        }
        | {name: round(value, 3) for name, value in (u["figures"] or {}).items()}
        for u in units
    ]


def left_out_table(left_out: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of the table artifact of scenes that no unit was made for; unusable items come first."""
    rows = sorted(left_out, key=lambda row: (row["cause"] != Cause.UNUSABLE, row["cause"], row["target_id"]))
    return [{"scene": row["target_id"], "cause": str(row["cause"]), "reason": row["reason"]} for row in rows[:_ROWS]]


def _note(unit: Mapping[str, Any]) -> str:
    """Return why a unit failed, or what to know about its product."""
    return str(unit["error"] or unit.get("note", ""))
