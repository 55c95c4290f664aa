"""A challenger beside the champion and beside trivial fillers: limits, verdict, report, and what follows."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from de_model.calibration import Origin
from de_model.metrics.bootstrap import Interval
from de_model.validation import Filler
from flows.models import promotion
from flows.models.evaluation import (
    Entrant,
    Evaluation,
    Usage,
    check_same_bands,
    evaluate,
    metrics_of,
    sentences,
    tables,
)
from flows.models.evaluation_cases import Case
from flows.models.registry import CHAMPION, Registry, model_of
from flows.models.shadow import Shadow, shadow_run
from flows.models.version import ModelVersion
from flows.settings import RunSettings
from stac.quality.gate import Check, Verdict

#: Folder of the report with the run of a version, and the tag with its gate table.
REPORT, GATES_TAG = "evaluation", "unveil_gates"

_PICTURES = (
    "Cases: cloudy, restored, truth; the champion above the challenger. Shadow run: champion, challenger, difference "
    "times four."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gates:
    """Limits; the defaults let a challenger pass that is not worse than the champion, nor than a trivial filler."""

    # Against the truth of the evaluation.
    #: A challenger whose gain in PSNR may be lower than this is refused: the lower end of its interval, dB.
    least_gain_db: float = -0.02
    #: Mean gain in PSNR over the best trivial filler that a challenger must reach, dB.
    least_trivial_gain_db: float = 0.0
    #: Mean PSNR over blocks that a challenger must reach whatever the champion does, dB.
    least_psnr_db: float = 20.0
    #: Share of the values that must lie inside their 90 % intervals, at least and at most. Real change between the
    #: dates counts against the model.
    least_coverage: float = 0.85
    most_coverage: float = 0.95
    #: Observed pixels that may come out other than they were observed.
    most_changed_pixels: int = 0
    #: Blocks without which nothing can be said.
    least_blocks: int = 20
    # Cost.
    #: Time of the challenger over that of the champion on the same scenes.
    most_time_ratio: float = 1.5
    #: Size of the weights file, bytes.
    most_bytes: int = 40_000_000
    # Beside the champion on scenes that are published, without a truth.
    #: Scenes without which nothing can be said; a catalog may be empty.
    least_shadow_scenes: int = 0
    #: Products that pass the quality gate with the champion and not with the challenger.
    most_shadow_refusals: int = 0
    #: Residual cloud of the challenger's products above that of the champion's, share of the restored pixels.
    most_shadow_cloud: float = 0.01
    #: Seam ratio and mean half-width of the challenger's products over those of the champion's.
    most_shadow_seams: float = 1.25
    most_shadow_width: float = 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A challenger in figures, over the gaps of all cases."""

    #: PSNR above the champion's and above the best trivial filler's, dB; paired bootstrap over blocks, 95 %.
    gain: Interval
    trivial_gain: Interval
    #: The best trivial filler.
    trivial: str
    psnr: float
    #: Share of the values that lie inside their 90 % interval; NaN where none was compared.
    coverage: float
    #: Observed pixels that are not what was observed, bit by bit.
    changed_pixels: int
    #: Time over the champion's.
    time_ratio: float
    size_bytes: int
    #: SHA-256 over the cases: equal for comparisons that can be compared.
    cases: str

    @property
    def sentence(self) -> str:
        """The outcome in words."""
        gain, trivial = self.gain, self.trivial_gain
        return (
            f"PSNR {gain.mean:+.3f} ({gain.low:+.3f} to {gain.high:+.3f}) dB over the champion and {trivial.mean:+.3f} "
            f"({trivial.low:+.3f} to {trivial.high:+.3f}) dB over {self.trivial}, {gain.images} blocks"
        )


def compared(champion: Evaluation, challenger: Evaluation) -> Comparison:
    """Return the figures of a challenger that was evaluated on the same cases as the champion."""
    trivial = challenger.best_trivial()
    nothing = Interval(math.nan, math.nan, math.nan, 0)
    seconds = [sum(case.seconds for case in each.cases) for each in (champion, challenger)]
    return Comparison(
        gain=challenger.gain_over(Filler.DE, champion),
        trivial_gain=nothing if trivial is None else challenger.gain_over(trivial),
        trivial="a trivial filler" if trivial is None else str(trivial),
        psnr=challenger.psnr,
        coverage=challenger.coverage(Origin.MODEL).share,
        changed_pixels=sum(case.changed_pixels for case in challenger.cases),
        time_ratio=seconds[1] / seconds[0] if seconds[0] else math.nan,
        size_bytes=challenger.size_bytes,
        cases=challenger.digest,
    )


def judge(found: Comparison, gates: Gates, shadow: Shadow | None = None) -> Verdict:
    """Return the verdict on a challenger.

    Args:
        found: beside the champion and the best trivial filler, with a known truth.
        gates: the limits.
        shadow: beside the champion on published scenes; None where no such run was made.
    """
    over = f"Mean gain in PSNR over {found.trivial} (dB)"
    checks = (
        Check("blocks", "Number of blocks compared", found.gain.images, gates.least_blocks, None),
        Check(
            "gain", "Lower end of the gain in PSNR over the champion (dB)", found.gain.low, gates.least_gain_db, None
        ),
        Check("trivial", over, found.trivial_gain.mean, gates.least_trivial_gain_db, None),
        Check("psnr", "PSNR (dB)", found.psnr, gates.least_psnr_db, None),
        Check("coverage", "Share inside the 90 % intervals", found.coverage, gates.least_coverage, gates.most_coverage),
        Check("fidelity", "Number of observed pixels changed", found.changed_pixels, None, gates.most_changed_pixels),
        Check("speed", "Time over the champion's", found.time_ratio, None, gates.most_time_ratio),
        Check("size", "Size of the weights (MB)", found.size_bytes / 1e6, None, gates.most_bytes / 1e6),
    )
    return Verdict(tuple(_decided(check) for check in (*checks, *_shadow_checks(shadow, gates))))


def _shadow_checks(shadow: Shadow | None, gates: Gates) -> tuple[Check, ...]:
    if shadow is None:
        return ()
    refused = "Number of products that only the challenger fails the quality gate with"
    checks = (
        Check(
            "shadow scenes", "Number of published scenes restored", len(shadow.scenes), gates.least_shadow_scenes, None
        ),
        Check("shadow refusals", refused, shadow.refusals, None, gates.most_shadow_refusals),
        Check(
            "shadow fidelity",
            "Number of observed pixels that differ",
            shadow.changed_pixels,
            None,
            gates.most_changed_pixels,
        ),
        Check("shadow cloud", "Residual cloud above the champion's", shadow.cloud_gain, None, gates.most_shadow_cloud),
        Check("shadow seams", "Seam ratio over the champion's", shadow.seam_ratio, None, gates.most_shadow_seams),
        Check("shadow width", "Half-width over the champion's", shadow.width_ratio, None, gates.most_shadow_width),
    )
    return checks if shadow.scenes else checks[:1]


def _decided(check: Check) -> Check:
    """Return the check so that a figure that came out as no number fails: nothing speaks for such a challenger."""
    if check.value is None or not math.isnan(check.value):
        return check
    return replace(check, value=-math.inf if check.lowest is not None else math.inf)


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What an evaluation looks at, and what must be shown."""

    cases: Callable[[], Iterable[Case]]
    #: How a model restores the cases.
    usage: Usage
    gates: Gates
    #: Where the catalog is whose scenes are made again; None makes no shadow run.
    run: RunSettings | None = None
    #: Published scenes that are made again, at most.
    shadow_scenes: int = 0


@dataclass(frozen=True, slots=True)
class Trial:
    """How an evaluation ended."""

    #: Versions.
    champion: str
    challenger: str
    comparison: Comparison
    #: None where no shadow run was made.
    shadow: Shadow | None
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Decision:
    """An evaluation, and what followed."""

    trial: Trial
    #: None where the challenger was refused, or nothing was to be moved.
    promotion: promotion.Promotion | None


def promote_if_gates_pass(
    registry: Registry, challenger: ModelVersion, terms: Terms, *, move: bool = True, by: str = "unveil promote"
) -> Decision:
    """Try a challenger against the champion; promote it when it passes all gates.

    Args:
        registry: the registry.
        challenger: the version that is evaluated.
        terms: what is looked at and what must be shown.
        move: False judges only.
        by: who promotes, kept with the version.

    Raises:
        InvalidSettings: the models restore different bands, or the challenger is the champion already.
        InvalidCheckpoint: an artefact is missing or was changed.
        ChampionChanged: another version became the champion meanwhile.
        UnknownModel: no version is the champion.
        ServiceUnavailable: the registry does not answer.
    """
    champion = registry.resolve(f"models:/{challenger.name}@{CHAMPION}")
    trial = hold_trial(registry, champion, challenger, terms)
    if not (move and trial.verdict.passed):
        return Decision(trial, None)
    why = f"{by}: {trial.comparison.sentence}; {len(trial.verdict.checks)} gates passed"
    return Decision(trial, promotion.promote(registry, challenger, why, against=champion.version))


def hold_trial(registry: Registry, champion: ModelVersion, challenger: ModelVersion, terms: Terms) -> Trial:
    """Compare and judge two versions; figures become metrics of both, report and gate table stay with the challenger.

    Raises:
        InvalidSettings: the models restore different bands, or no case was found.
        InvalidCheckpoint: an artefact is missing or was changed.
        ServiceUnavailable: the registry does not answer.
    """
    versions = (champion, challenger)
    entrants = [Entrant(registry.weights(version), registry.calibration(version)) for version in versions]
    check_same_bands(entrants)
    old, new = (evaluate(entrant, terms.cases(), terms.usage) for entrant in entrants)
    with tempfile.TemporaryDirectory(prefix="unveil-trial-") as folder:
        report = Path(folder) / REPORT
        report.mkdir()
        shadow = _shadow_of(registry, versions, terms, Path(folder) / "shadow", report)
        comparison = compared(old, new)
        trial = Trial(champion.version, challenger.version, comparison, shadow, judge(comparison, terms.gates, shadow))
        _draw(old, new, report)
        document = as_json(trial.verdict)
        pictures = sorted(path.name for path in report.glob("*.png"))
        (report / "report.md").write_text(as_markdown(trial, new, pictures), "utf-8")
        (report / "gates.json").write_text(json.dumps(document, indent=2) + "\n", "utf-8")
        registry.log_artifacts(challenger, report, REPORT)
    place = ", ".join(new.places)
    gates = {f"gate/{c.name.replace(' ', '_')}": c.value for c in trial.verdict.checks if c.value is not None}
    for version, figures in ((champion, metrics_of(old)), (challenger, metrics_of(new) | gates)):
        registry.log_metrics(version, figures, place, new.digest)
    registry.set_tags(challenger, {GATES_TAG: json.dumps(document | {"champion": champion.version})})
    return trial


def _shadow_of(
    registry: Registry, versions: Sequence[ModelVersion], terms: Terms, work: Path, report: Path
) -> Shadow | None:
    if terms.run is None:
        return None
    old, new = (model_of(terms.run, registry, version) for version in versions)
    return shadow_run(terms.run, old, new, terms.shadow_scenes, work, report)


def _draw(old: Evaluation, new: Evaluation, report: Path) -> None:
    """Write cloudy scene, restoration and truth of every case, the champion's above the challenger's."""
    for number, (one, other) in enumerate(zip(old.cases, new.cases, strict=True)):
        if one.picture is not None and other.picture is not None:
            both = np.concatenate([one.picture, other.picture], axis=1)
            Image.fromarray(both.transpose(1, 2, 0)).save(report / f"case-{number:02d}.png")


def as_json(verdict: Verdict) -> dict[str, Any]:
    """Return the gate table as JSON values; a figure that came out as no number is null."""
    found: dict[str, Any] = plain(verdict.document())
    return found


def plain(value: Any) -> Any:
    """Return a document so that JSON can hold it: what is not a finite number is null."""
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


def as_markdown(trial: Trial, evaluation: Evaluation, pictures: Sequence[str]) -> str:
    """Return the report; pictures are named by their files beside it."""
    verdict, comparison = trial.verdict, trial.comparison
    outcome = "passes all gates" if verdict.passed else "is refused"
    rows = [f"| {' | '.join(row)} |" for row in gate_rows(as_json(verdict))]
    lines = [
        f"# Version {trial.challenger} against version {trial.champion}",
        f"The challenger {outcome}: {comparison.sentence}. Cases: SHA-256 `{comparison.cases[:16]}`.",
        "\n".join(["| gate | figure | limits | |", "|---|---|---|---|", *rows]),
        "## The challenger beside trivial fillers",
        "\n".join(f"- {each}" for each in sentences(evaluation)),
        tables(evaluation),
        *([] if trial.shadow is None else ["## Shadow run", _shadow(trial.shadow)]),
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
