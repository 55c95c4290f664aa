"""Pictures of results, drawn without a screen."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from de_model.metrics.bootstrap import Interval

DoubleArray = NDArray[np.float64]

#: Distinguishable with every common kind of colour vision (Okabe and Ito 2008).
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
_MARKS = "osD^vP*"
#: Lines that coincide can still be distinguished.
_DASHES: tuple[Any, ...] = ("-", (0, (4, 2)), (0, (1, 1.5)), "-.", "-", "--", ":")
_PALETTE = 64
#: Names of rows need room of their own.
_PANEL_INCHES, _NAMES_INCHES, _HEIGHT_INCHES, _DPI = 4.2, 1.2, 3.4, 100


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a panel; where x is words, dots without a line."""

    name: str
    x: tuple[float, ...] | tuple[str, ...]
    #: Values, with bars where they are intervals.
    y: tuple[float | Interval, ...]


@dataclass(frozen=True, slots=True)
class Panel:
    """One pair of axes."""

    x_label: str
    y_label: str
    series: tuple[Series, ...]
    #: Equal steps of a doubling quantity.
    log_x: bool = False
    #: A level to compare with, such as 0 for a gain.
    level: float | None = None
    #: Ends of the axis of y; what lies beyond is cut off.
    y_range: tuple[float, float] | None = None

    @property
    def has_names(self) -> bool:
        """Whether x are words, which become rows."""
        return any(isinstance(x, str) for series in self.series for x in series.x)


def draw(panels: Sequence[Panel]) -> bytes:
    """Return a PNG with the panels side by side; equal panels give equal bytes."""
    width = sum(_PANEL_INCHES + _NAMES_INCHES * panel.has_names for panel in panels)
    figure = Figure(figsize=(width, _HEIGHT_INCHES), dpi=_DPI, layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _draw_panel(axes, panel)
    drawn, picture = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png")
    # Few colours are used: a palette is a third of the bytes.
    colours = Image.open(drawn).convert("RGB").quantize(_PALETTE, dither=Image.Dither.NONE)
    colours.save(picture, "png", optimize=True)
    return picture.getvalue()


def _draw_panel(axes: Axes, panel: Panel) -> None:
    words = panel.has_names
    for number, series in enumerate(panel.series):
        shift = (number - (len(panel.series) - 1) / 2) * 0.15 if words else 0.0
        _draw_series(axes, series, number, shift)
    if panel.level is not None:
        line = axes.axvline if words else axes.axhline
        line(panel.level, color="#888888", linewidth=0.8, linestyle="--")
    if words:
        _name_rows(axes, panel)
    else:
        _scale_x(axes, panel)
    if panel.y_range is not None:
        (axes.set_xlim if words else axes.set_ylim)(*panel.y_range)
    axes.grid(visible=True, color="#e5e5e5", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    if len(panel.series) > 1:
        axes.legend(fontsize=7, frameon=False)


def _draw_series(axes: Axes, series: Series, number: int, shift: float) -> None:
    style: dict[str, Any] = {
        "color": _COLOURS[number % len(_COLOURS)],
        "marker": _MARKS[number % len(_MARKS)],
        "markersize": 4,
        "capsize": 2,
        "label": series.name,
    }
    middle, bars = _with_bars(series.y)
    if any(isinstance(x, str) for x in series.x):
        # Words are rows, read from the top.
        axes.errorbar(middle, np.arange(len(middle)) + shift, xerr=bars, linestyle="none", **style)
    else:
        axes.errorbar(
            np.array(series.x, float),
            middle,
            yerr=bars,
            linewidth=1.2,
            linestyle=_DASHES[number % len(_DASHES)],
            **style,
        )


def _with_bars(values: Sequence[float | Interval]) -> tuple[DoubleArray, DoubleArray]:
    """Return `(value,)` and the lengths of its bars `(2, value)`, 0 without an interval."""
    ends = [(v.mean, v.low, v.high) if isinstance(v, Interval) else (v, v, v) for v in values]
    middle, low, high = np.array(ends, float).T
    # The mean of a skewed few may lie outside its percentile interval; a bar has no negative length.
    bars = np.maximum(np.nan_to_num(np.stack([middle - low, high - middle])), 0)
    return middle, bars


def _name_rows(axes: Axes, panel: Panel) -> None:
    names = [str(x) for x in panel.series[0].x]
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel(panel.y_label, fontsize=9)


def _scale_x(axes: Axes, panel: Panel) -> None:
    axes.set_xlabel(panel.x_label, fontsize=9)
    axes.set_ylabel(panel.y_label, fontsize=9)
    if panel.log_x:
        ticks = sorted({float(x) for series in panel.series for x in series.x})
        axes.set_xscale("log")
        axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
        axes.minorticks_off()
