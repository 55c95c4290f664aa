"""What an evaluation found, for people and for the registry: sentences, tables, metrics, and a whole report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from de_model.calibration import Origin
from de_model.validation import Filler, PixelKind
from flows.models.evaluation_figures import ErrorSums, Evaluation
from flows.models.gates import ChampionComparison
from flows.models.shadow import Shadow

_PICTURES = (
    "Cases: cloudy, restored, truth; the champion above the challenger. Shadow run: champion, challenger, difference "
    "times four."
)


def sentences(evaluation: Evaluation) -> list[str]:
    """Return what the model beats and what beats it, one sentence per kind of pixel."""
    found = []
    for kind, record in evaluation.record().kinds.items():
        errors = {filler: figures.mae for filler, figures in record.fillers.items() if figures is not None}
        name = f"{kind} ({record.cases} cases, {record.pixels} pixels)"
        own = errors.pop(Filler.DE, None)
        if own is None:
            found.append(f"{name}: best is {record.best}, MAE {errors[record.best]:.4f}.")
            continue
        worse = _listed({f: mae for f, mae in errors.items() if mae > own})
        better = _listed({f: mae for f, mae in errors.items() if mae <= own})
        found.append(f"{name}: the model (MAE {own:.4f}) beats {worse}; it is beaten by {better}.")
    return found


def _listed(errors: Mapping[Filler, float]) -> str:
    return ", ".join(f"{filler} ({mae:.4f})" for filler, mae in sorted(errors.items(), key=lambda e: e[1])) or "nothing"


def tables(evaluation: Evaluation) -> str:
    """Return the figures of every kind of pixel, and the coverage of intervals, in Markdown."""
    parts = []
    for kind in PixelKind:
        totals = evaluation.total(kind)
        if totals:
            parts += [f"### {kind}", _errors_table(totals)]
    rows = [
        f"| {origin} | {place or 'all'} | {c.share:.1%} | {c.mean_score:.4f} | {c.values} |"
        for origin in Origin
        for place in (*evaluation.places, None)
        if (c := evaluation.coverage(origin, place)).values
    ]
    head = "| origin | place | truth inside the 90 % interval | interval score | values |\n|---|---|---|---|---|"
    return "\n\n".join([*parts, "### Intervals", "\n".join([head, *rows])])


def _errors_table(totals: Mapping[Filler, ErrorSums]) -> str:
    head = "| filler | MAE (95 %) | PSNR, dB | spectral angle, ° | NDVI error |\n|---|---|---|---|---|"
    rows = []
    for filler, sums in totals.items():
        low, high = sums.mae_interval()
        figures = f"{sums.mae:.4f} ({low:.4f} to {high:.4f}) | {sums.psnr:.2f} | {sums.sam:.2f} | {sums.ndvi:.4f}"
        rows.append(f"| {filler} | {figures} |")
    return "\n".join([head, *rows])


def metrics_of(evaluation: Evaluation) -> dict[str, float]:
    """Return the figures by name, as a registry keeps them; those that are defined."""
    figures = {"psnr_db": evaluation.psnr, "seconds": sum(case.seconds for case in evaluation.cases)}
    for kind in PixelKind:
        for filler, sums in evaluation.total(kind).items():
            figures |= {f"mae/{kind}/{filler}": sums.mae, f"psnr_db/{kind}/{filler}": sums.psnr}
    for origin in Origin:
        covered, name = evaluation.coverage(origin), origin.name.lower()
        figures |= {f"coverage/{name}": covered.share, f"interval_score/{name}": covered.mean_score}
    return {name: float(value) for name, value in figures.items() if math.isfinite(value)}


def plain(value: Any) -> Any:
    """Return a document so that JSON can hold it: what is not a finite number is null."""
    if isinstance(value, Mapping):
        return {name: plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def record_of(summary: Any, judged: ChampionComparison | None) -> dict[str, Any]:
    """Return the summary of a flow as JSON values, with what every gate said where versions were compared."""
    record: dict[str, Any] = plain(asdict(summary) | {"judged": judged and judged.document()})
    return record


def gate_rows(document: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Return gate, figure, limits and outcome of every check of a gate table, as text."""
    outcomes = {True: "passed", False: "failed", None: "not judged"}
    return [
        (check["label"], _number(check["value"]), _limits(check), outcomes[check["passed"]])
        for check in document["checks"]
    ]


def summary(document: Mapping[str, Any]) -> str:
    """Return a gate table in a few words: what failed, or that nothing did."""
    failed = [check["name"] for check in document["checks"] if check["passed"] is False]
    count = len(document["checks"])
    return f"failed: {', '.join(failed)}" if failed else f"{count} of {count} passed"


def as_markdown(judged: ChampionComparison, evaluation: Evaluation, pictures: Sequence[str]) -> str:
    """Return the report; pictures are named by their files beside it."""
    verdict, comparison = judged.verdict, judged.comparison
    outcome = "passes all gates" if verdict.passed else "is refused"
    rows = [f"| {' | '.join(row)} |" for row in gate_rows(plain(verdict.document()))]
    lines = [
        f"# Version {judged.challenger} against version {judged.champion}",
        f"The challenger {outcome}: {comparison.sentence}. Cases: SHA-256 `{comparison.cases[:16]}`.",
        "\n".join(["| gate | figure | limits | |", "|---|---|---|---|", *rows]),
        "## The challenger beside trivial fillers",
        "\n".join(f"- {each}" for each in sentences(evaluation)),
        tables(evaluation),
        *([] if judged.shadow is None else ["## Shadow run", _shadow(judged.shadow)]),
        "## Pictures",
        _PICTURES,
        *(f"![{name}]({name})" for name in pictures),
    ]
    return "\n\n".join(lines) + "\n"


def _shadow(shadow: Shadow) -> str:
    head = (
        "| scene | pixels of the model | difference | residual cloud | seam ratio | half-width | seconds |\n"
        "|---|---|---|---|---|---|---|"
    )
    rows = [
        f"| {s.target_id} | {s.pixels} | {s.difference:.4f} | "
        + " | ".join(
            f"{_number(getattr(s.champion, name))} / {_number(getattr(s.challenger, name))}"
            for name in ("residual_cloud", "seam_ratio", "half_width", "seconds")
        )
        + " |"
        for s in shadow.scenes
    ]
    table = "\n".join([head, *rows]) if rows else "No published scene could be made again."
    return "\n\n".join([table, *(f"- left out: {reason}" for reason in shadow.skipped)])


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _limits(check: Mapping[str, Any]) -> str:
    lowest, highest = check["lowest"], check["highest"]
    if lowest is not None and highest is not None:
        return f"{lowest:g} to {highest:g}"
    return f"{lowest:g} or more" if highest is None else f"{highest:g} or less"
