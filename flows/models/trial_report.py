"""The report of a trial: gates, figures of both models, and pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flows.models.contestant import Contestant
from flows.models.shadow import Shadow
from stac.quality.gate import Verdict

if TYPE_CHECKING:
    from flows.models.trial import Trial


def as_json(verdict: Verdict) -> dict[str, Any]:
    """Return the gate table as JSON values; a figure that came out as no number is null."""
    found: dict[str, Any] = plain(verdict.document())
    return found


def plain(value: Any) -> Any:
    """Return a document so that JSON can hold it: what is no finite number is null."""
    if isinstance(value, Mapping):
        return {name: plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


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


def as_markdown(trial: Trial, pictures: Sequence[str]) -> str:
    """Return the report; pictures are named by their files beside it."""
    verdict, contest = trial.verdict, trial.contest
    outcome = "passes all gates" if verdict.passed else "is refused"
    rows = [f"| {' | '.join(row)} |" for row in gate_rows(as_json(verdict))]
    lines = [
        f"# Version {trial.challenger} against version {trial.champion}",
        f"The challenger {outcome}: {contest.sentence}. Cases: SHA-256 `{contest.cases[:16]}`.",
        "\n".join(["| gate | figure | limits | |", "|---|---|---|---|", *rows]),
        "## Contest",
        "Clouds whose ground is known from a clear date nearby, restored without any other date.",
        _figures({"champion": contest.champion, "challenger": contest.challenger}),
        *([] if trial.shadow is None else ["## Shadow run", _shadow(trial.shadow)]),
        "## Pictures",
        "Contest: cloudy, champion, challenger, truth. Shadow run: champion, challenger, difference times four.",
        *(f"![{name}]({name})" for name in pictures),
    ]
    return "\n\n".join(lines) + "\n"


def _figures(both: Mapping[str, Contestant]) -> str:
    head = "| | pixels | MAE | PSNR, dB | spectral angle, ° | NDVI error |\n|---|---|---|---|---|---|"
    rows = [
        f"| {who}, {name} | {f.pixels} | {f.mae:.4f} | {f.psnr:.2f} | {f.sam:.2f} | {f.ndvi:.4f} |"
        for name in both["champion"].classes
        for who, model in both.items()
        if (f := model.classes.get(name)) is not None
    ]
    more = [f"{who.capitalize()}: {_in_words(model)}" for who, model in both.items()]
    return "\n\n".join(["\n".join([head, *rows]), *more])


def _in_words(model: Contestant) -> str:
    text = f"{model.coverage:.1%} of the values inside their 90 % interval; {model.seconds:.1f} s"
    if math.isnan(model.paper_psnr):
        return f"{text}; no window was seen whole, as the `paper` protocol wants."
    return f"{text}; `paper` protocol in whole windows {model.paper_psnr:.2f} dB, SSIM {model.paper_ssim:.3f}."


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
