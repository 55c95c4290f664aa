"""docs/results/product.md and its plot, from the figures of all cases."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

from flows.machine import machine
from flows.models.error_sums import ErrorSums
from flows.models.evaluation_cases import Protocol
from flows.models.product_evaluation import OF_MODEL, Candidate, CaseFigures

_EXPLANATION = """\
*Transplanted clouds*: shape and light of a cloudy date's real clouds on a clear date, whose own pixels under them are
the truth and are seen by nothing. *Real pairs*: a cloudy date is restored and compared with a clear date that was
withheld from everything; part of that error is real change and the other orbit's angle of view, and no candidate can
reach zero. Errors are in reflectance, over pixels that all candidates fill. PSNR is for a peak reflectance of 1.
Intervals are 95 %, bootstrapped over blocks of 64 px. The product is scored where other dates fill it, with the
default prior; the model's candidates, which are slow, in the fullest window of 128 px of every case that has all other
dates as source."""
_HEAD = "| candidate | MAE (95 %) | PSNR, dB | spectral angle, ° | NDVI error |\n|---|---|---|---|---|"
_CLASSES = ("all", "cloud", "thin cloud", "shadow")


def as_markdown(figures: Sequence[CaseFigures], command: str, model: str) -> str:
    """Return the results page."""
    pages = [
        "# The product against simpler ways to fill clouds",
        f"Command: `{command}`; {datetime.now(UTC):%Y-%m-%d}; {machine()}; model {model}.",
        _EXPLANATION,
        "![MAE by pixel class and days to the nearest source](product.png)",
    ]
    for title, chosen in _groups(figures):
        pages += [f"## {title}", _summary(chosen), _table(_total(f.whole for f in chosen))]
        pages += [_class_table(chosen)]
    pages += ["## With the model, in windows of 128 px", *_windows(figures)]
    pages += ["## Coverage of the 90 % intervals", _coverage(figures), "## Every case (MAE)", _every(figures)]
    return "\n\n".join(pages) + "\n"


def _groups(figures: Sequence[CaseFigures]) -> list[tuple[str, list[CaseFigures]]]:
    transplanted = [f for f in figures if f.protocol is Protocol.TRANSPLANTED]
    real = [f for f in figures if f.protocol is Protocol.REAL_PAIRS]
    groups = [
        ("Transplanted clouds, all other dates as source", [f for f in transplanted if not f.alone]),
        ("Transplanted clouds, one date alone as source", [f for f in transplanted if f.alone]),
        ("Real pairs", real),
    ]
    return [(title, chosen) for title, chosen in groups if chosen]


def _total(
    many: Iterable[Mapping[Candidate, Mapping[str, ErrorSums]]], name: str = "all"
) -> dict[Candidate, ErrorSums]:
    """Return the errors of all cases together, one pixel class."""
    found: dict[Candidate, list[ErrorSums]] = {}
    for by_candidate in many:
        for candidate, by_class in by_candidate.items():
            if name in by_class:
                found.setdefault(candidate, []).append(by_class[name])
    return {candidate: reduce(add, sums) for candidate, sums in found.items()}


def _table(totals: Mapping[Candidate, ErrorSums]) -> str:
    rows = []
    for candidate, sums in totals.items():
        low, high = sums.mae_interval()
        rows.append(
            f"| {candidate} | {sums.mae:.4f} ({low:.4f} to {high:.4f}) | {sums.psnr:.1f} | {sums.sam:.2f} "
            f"| {sums.ndvi:.4f} |"
        )
    return "\n".join([_HEAD, *rows])


def _summary(chosen: Sequence[CaseFigures]) -> str:
    totals = _total(f.whole for f in chosen)
    gain, low, high = totals[Candidate.PRODUCT].mae_gain(totals[Candidate.LINEAR])
    better = sum(f.whole[Candidate.PRODUCT]["all"].mae < f.whole[Candidate.LINEAR]["all"].mae for f in chosen)
    return (
        f"{len(chosen)} cases. The product's MAE is {gain:+.4f} ({low:+.4f} to {high:+.4f}) below that of the linear "
        f"match, paired by block; it is lower in {better} of {len(chosen)} cases."
    )


def _class_table(chosen: Sequence[CaseFigures]) -> str:
    totals = {name: _total((f.whole for f in chosen), name) for name in _CLASSES[1:]}
    rows = [
        f"| {candidate} | " + " | ".join(_mae(totals[name].get(candidate)) for name in totals) + " |"
        for candidate in Candidate
        if candidate not in OF_MODEL
    ]
    return "\n".join([f"| MAE | {' | '.join(totals)} |", "|---" * (len(totals) + 1) + "|", *rows])


def _mae(sums: ErrorSums | None) -> str:
    return "–" if sums is None else f"{sums.mae:.4f}"


def _windows(figures: Sequence[CaseFigures]) -> list[str]:
    pages = []
    for protocol in Protocol:
        chosen = [f for f in figures if f.protocol is protocol and f.window]
        if not chosen:
            continue
        totals = _total(f.window for f in chosen)
        gain, low, high = totals[Candidate.PRODUCT].mae_gain(totals[Candidate.DE_ON_PRIOR])
        verdict = "the prior stays as it is" if gain > 0 else "DE refines the prior"
        text = (
            f"{str(protocol).capitalize()}, {len(chosen)} windows: DE with the prior as its reference has "
            f"{gain:+.4f} ({low:+.4f} to {high:+.4f}) more MAE than the prior; by this, {verdict}."
        )
        pages += [text, _table(totals)]
    return pages


def _coverage(figures: Sequence[CaseFigures]) -> str:
    rows = []
    for origin in ("other dates", "model"):
        for title, chosen in [*_groups(figures), ("Together", list(figures))]:
            found = [f.coverage[origin] for f in chosen if origin in f.coverage]
            total = sum(c.total for c in found)
            if total:
                rows.append(f"| {origin} | {title} | {sum(c.inside for c in found) / total:.1%} | {total} |")
    return "\n".join(["| origin | cases | truth inside the interval | values |", "|---|---|---|---|", *rows])


def _every(figures: Sequence[CaseFigures]) -> str:
    names = [c for c in Candidate if c not in OF_MODEL]
    rows = [
        f"| {f.case} | {f.gap} | {f.whole[Candidate.PRODUCT]['all'].pixels} | "
        + " | ".join(_mae(f.whole[name].get("all")) for name in names)
        + f" | {f.whole[Candidate.LINEAR]['all'].psnr:.1f} / {f.whole[Candidate.PRODUCT]['all'].psnr:.1f} |"
        for f in figures
    ]
    head = f"| case | days | pixels | {' | '.join(names)} | PSNR linear match / product |"
    return "\n".join([head, "|---" * (len(names) + 4) + "|", *rows])


def as_records(figures: Sequence[CaseFigures]) -> list[dict[str, Any]]:
    """Return the figures of every case as JSON values."""
    return [
        {
            "case": f.case,
            "protocol": f.protocol,
            "days": f.gap,
            "pixels": f.whole[Candidate.PRODUCT]["all"].pixels,
            "whole": {c: _record(sums) for c, sums in f.whole.items()},
            "window": {c: _record(sums) for c, sums in f.window.items()},
            "coverage": {origin: c.inside / c.total for origin, c in f.coverage.items() if c.total},
        }
        for f in figures
    ]


def _record(by_class: Mapping[str, ErrorSums]) -> dict[str, dict[str, float | None]]:
    def finite(value: float) -> float | None:
        return value if math.isfinite(value) else None

    return {
        name: {"mae": finite(s.mae), "psnr": finite(s.psnr), "sam": finite(s.sam), "ndvi": finite(s.ndvi)}
        for name, s in by_class.items()
    }


def write_plot(figures: Sequence[CaseFigures], path: Path) -> None:
    """Write MAE by days to the nearest source and pixel class, transplanted clouds, as PNG."""
    from matplotlib.figure import Figure

    chosen = [f for f in figures if f.protocol is Protocol.TRANSPLANTED]
    figure = Figure(figsize=(11, 3.5), layout="constrained")
    axes = figure.subplots(1, len(_CLASSES), sharey=True)
    gaps = sorted({f.gap for f in chosen})
    for axis, name in zip(axes, _CLASSES, strict=True):
        for candidate in (Candidate.COPY, Candidate.LINEAR, Candidate.GEOMEDIAN, Candidate.PRODUCT):
            totals = [_total((f.whole for f in chosen if f.gap == gap), name).get(candidate) for gap in gaps]
            style = {"marker": "o", "linestyle": "--" if candidate is Candidate.COPY else "-"}
            axis.plot(gaps, [math.nan if t is None else t.mae for t in totals], label=candidate, **style)
        axis.set(title=name, xlabel="days to the nearest source", xticks=gaps)
    axes[0].set(ylabel="MAE, reflectance", ylim=(0, None))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    figure.savefig(path, dpi=110, metadata={"Software": None})
