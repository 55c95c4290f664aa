"""Charts and maps of reports."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from io import BytesIO, StringIO
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from PIL import Image

from flows.drift.compare import FeatureDrift
from flows.drift.statistics import REFLECTANCE, feature_of
from stac.product.cog import rgb_of
from stac.product.layers import SOURCE_DATE_NODATA, Provenance
from stac.product.writer import Layer
from stac.quality.figures import HALF_WIDTH_EDGES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Stands for the colour of the page's text, which a browser knows and matplotlib does not.
_INK = "#010203"
_PASS, _MUTED = "#2e8b57", "#8a95a3"
_BANDS = {"blue": "#3b6fd4", "green": "#3a9a4b", "red": "#d0453b", "nir": "#8e4a9e"}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}
_SIDE_PX = 640
#: Pixels that no acquisition saw, and those without an interval: grey that shows on light and on dark paper.
_NOTHING = (150, 156, 164)
_WIDEST = 0.1


def charts_of(quality: Mapping[str, Any], target_date: str) -> dict[str, str]:
    """Return the plots of a report as SVG elements, by name; those without anything to show are left out."""
    figures = quality["figures"]
    groups = figures["groups"]
    widths = {n: g["half_widths"] for n, g in groups.items() if n != "restored" and sum(g["half_widths"])}
    drawn: dict[str, tuple[str, Callable[..., None], Any]] = {
        "half_width": ("Histogram of the half-width of the 90 % interval by class", _half_widths, widths),
        "dates": (
            "Timeline of the area that each date saw",
            partial(_dates, target_date=target_date),
            figures["dates"],
        ),
    }
    return {name: svg(name, text, partial(draw, data)) for name, (text, draw, data) in drawn.items() if data}


def label_of(name: str) -> str:
    """Return what people call a group or a class of pixels, given by its lower-case name."""
    return "All restored" if name == "restored" else Provenance[name.upper()].label


def color_of(name: str) -> str:
    """Return the colour of a group or class."""
    return _MUTED if name == "restored" else f"#{Provenance[name.upper()].color}"


def svg(name: str, description: str, draw: Callable[[Axes], None]) -> str:
    """Return an SVG element that is an image with a text alternative, its ids its own."""
    # rc_context leaves what other users of matplotlib in this process have set.
    import matplotlib as mpl  # loaded where a chart is drawn: half a second
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with mpl.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(5.2, 2.9), layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure.subplots())
        buffer = StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    element = buffer.getvalue()
    element = re.sub(r"<metadata>.*?</metadata>", "", element[element.index("<svg") :], flags=re.DOTALL)
    element = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{name}-", element)
    element = re.sub(r' (width|height)="[\d.]+pt"', "", element, count=2)
    element = element.replace(_INK, "currentColor")
    return element.replace("<svg ", f'<svg role="img" aria-label="{description}" ', 1)


def _half_widths(known: Mapping[str, Sequence[int]], axes: Axes) -> None:
    last = 1
    for name, counts in known.items():
        shares = [100 * count / sum(counts) for count in counts]
        last = max(last, *(i for i, share in enumerate(shares) if share >= 0.1), 1)
        edges = [*HALF_WIDTH_EDGES, 2 * HALF_WIDTH_EDGES[-1] - HALF_WIDTH_EDGES[-2]]
        axes.stairs(shares, edges, color=color_of(name), label=label_of(name), linewidth=1.8, fill=False)
    axes.set_xlim(0, HALF_WIDTH_EDGES[min(last + 1, len(HALF_WIDTH_EDGES) - 1)])
    axes.set_xlabel("half-width of the 90 % interval, reflectance")
    axes.set_ylabel("% of values")
    axes.legend(fontsize=9)


def _dates(dates: Sequence[Mapping[str, Any]], axes: Axes, target_date: str) -> None:
    days = [date.fromisoformat(entry["date"]) for entry in dates]
    colors = [_PASS if entry["date"] == target_date else color_of("other_dates") for entry in dates]
    bars = axes.bar(days, [entry["km2"] for entry in dates], color=colors, width=0.7)  # type: ignore[arg-type]
    axes.bar_label(bars, fmt="%.0f", padding=2, fontsize=9)
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator = AutoDateLocator(minticks=3, maxticks=8)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    axes.margins(y=0.12)
    axes.set_ylabel("km² seen on this date")


def reflectance_chart(features: Sequence[FeatureDrift]) -> str:
    """Return the distributions of clear ground by band as an SVG element; empty without any."""
    bands = [feature for feature in features if feature.name.startswith(REFLECTANCE)]
    if not bands:
        return ""
    return svg(
        "drift", "Reflectance of clear ground by band, here and in training", lambda axes: _reflectance(axes, bands)
    )


def _reflectance(axes: Axes, bands: Sequence[FeatureDrift]) -> None:
    for feature in bands:
        band = feature.name.removeprefix(REFLECTANCE)
        edges = feature_of(feature.name).edges
        ends = [*edges, 2 * edges[-1] - edges[-2]]
        widths = [100 * (upper - lower) for lower, upper in pairwise(ends)]
        for shares, line, label in ((feature.shares, "-", band), (feature.training_shares, ":", None)):
            heights = [100 * share / width for share, width in zip(shares, widths, strict=True)]
            axes.stairs(heights, ends, color=_BANDS.get(band, _MUTED), linestyle=line, label=label, linewidth=1.6)
    axes.set_xlim(0, 0.6)
    axes.set_xlabel("reflectance")
    axes.set_ylabel("% of values per 0.01")
    axes.legend(fontsize=9)


@dataclass(frozen=True, slots=True)
class Key:
    """One line of a legend."""

    #: RGB as six hexadecimal digits.
    color: str
    text: str


@dataclass(frozen=True, slots=True)
class Map:
    """A picture with what its colours mean."""

    title: str
    #: Text alternative.
    description: str
    #: PNG as a `data:` address.
    picture: str
    keys: tuple[Key, ...]


def maps_of(folder: Path) -> tuple[Map, ...]:
    """Return the maps of the product in a folder: where pixels come from, when they were seen, how sure they are.

    Raises:
        RasterioError: a layer cannot be read.
    """
    return _provenance(folder), _maps_dates(folder), _intervals(folder)


def _provenance(folder: Path) -> Map:
    classes = _thinned(folder, Layer.PROVENANCE)[0]
    table = np.array([rgb_of(p.color) for p in Provenance], np.uint8)
    keys = tuple(Key(p.color, p.label) for p in Provenance if (classes == p).any())
    return Map("Where each pixel comes from", "Map of the provenance classes", _png(table[classes]), keys)


def _maps_dates(folder: Path) -> Map:
    days = _thinned(folder, Layer.SOURCE_DATE)[0]
    found = [int(day) for day in np.unique(days) if day != SOURCE_DATE_NODATA]
    colors = _ramp("viridis", len(found))
    picture = np.full((*days.shape, 3), _NOTHING, np.uint8)
    for day, color in zip(found, colors, strict=True):
        picture[days == day] = color
    keys = [Key(_hex(c), str(np.datetime64(d, "D"))) for d, c in zip(found, colors, strict=True)]
    keys += [Key(_hex(_NOTHING), "seen on no date")] * bool((days == SOURCE_DATE_NODATA).any())
    return Map("When it was seen", "Map of the date whose acquisition saw each pixel", _png(picture), tuple(keys))


def _intervals(folder: Path) -> Map:
    widths = _thinned(folder, Layer.UNCERTAINTY)
    known = np.isfinite(widths).all(axis=0)
    mean = np.where(known, widths, 0).mean(axis=0)
    colors = np.array(_ramp("magma", 256), np.uint8)
    picture = colors[(mean / _WIDEST * 255).clip(0, 255).astype(np.uint8)]
    picture[~known] = _NOTHING
    steps = (0.0, 0.025, 0.05, 0.1)
    keys = [Key(_hex(colors[int(s / _WIDEST * 255)]), f"{'≥ ' * (s == _WIDEST)}{s:g}") for s in steps]
    text = "Map of the half-width of the 90 % interval, mean over bands"
    return Map("How sure it is: half-width of the 90 % interval", text, _png(picture), tuple(keys))


def _thinned(folder: Path, layer: Layer) -> NDArray[Any]:
    """Return a layer `(band, y, x)` of at most `_SIDE_PX` pixels a side, from its overviews."""
    with rasterio.open(folder / layer.file_name) as source:
        factor = max(1, -(-max(source.shape) // _SIDE_PX))
        shape = (source.count, -(-source.height // factor), -(-source.width // factor))
        return np.asarray(source.read(out_shape=shape))


def _ramp(name: str, count: int) -> list[tuple[int, int, int]]:
    """Return colours `(red, green, blue)`, 0-255, evenly along a colour map that colour-blind people can read."""
    from matplotlib import colormaps

    shades = colormaps[name](np.linspace(0, 1, count) if count != 1 else [0.5])
    return [(int(r), int(g), int(b)) for r, g, b in np.rint(shades[:, :3] * 255)]


def _hex(color: Sequence[int]) -> str:
    return "".join(f"{int(value):02x}" for value in color)


def _png(picture: NDArray[np.uint8]) -> str:
    buffer = BytesIO()
    image = Image.fromarray(picture)
    # Small products are shown pixel by pixel, not as a stamp.
    scale = max(1, 400 // max(image.size))
    image = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    image.quantize(256).save(buffer, "PNG", optimize=True)
    return data_uri(buffer.getvalue())


def data_uri(picture: Path | bytes) -> str:
    """Return a PNG as a `data:` URI, so that a page needs no other file."""
    content = picture if isinstance(picture, bytes) else picture.read_bytes()
    return "data:image/png;base64," + base64.b64encode(content).decode("ascii")
