"""A challenger on trial: contest, shadow run and gates, kept with its version; what passes may be promoted."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from de_model.card import ModelCard
from de_model.inference.sampling import Sampling
from flows.models import promotion
from flows.models.contest import Case, Contest, compare
from flows.models.contestant import Entrant
from flows.models.gates import Gates, judge
from flows.models.registry import CHAMPION, Registry
from flows.models.resolving import model_of
from flows.models.shadow import Shadow, shadow_run
from flows.models.trial_report import as_json, as_markdown
from flows.models.version import ModelVersion
from flows.settings import RunSettings
from stac.quality.gate import Verdict

#: Folder of the report with the run of a version, and the tag with its gate table.
REPORT, GATES_TAG = "evaluation", "unveil_gates"


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a trial looks at, and what must be shown."""

    cases: Iterable[Case]
    #: How a model restores the cases.
    sampling: Callable[[ModelCard], Sampling]
    gates: Gates
    #: Say where the catalog is whose scenes are made again; None makes no shadow run.
    run: RunSettings | None = None
    #: Published scenes that are made again, at most.
    shadow_scenes: int = 0


@dataclass(frozen=True, slots=True)
class Trial:
    """How a trial ended."""

    #: Versions.
    champion: str
    challenger: str
    contest: Contest
    #: None where no shadow run was made.
    shadow: Shadow | None
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Decision:
    """A trial, and what followed."""

    trial: Trial
    #: None where the challenger was refused, or nothing was to be moved.
    promotion: promotion.Promotion | None


def promote_if_gates_pass(
    registry: Registry, challenger: ModelVersion, terms: Terms, *, move: bool = True, by: str = "unveil promote"
) -> Decision:
    """Try a challenger against the champion; promote it when it passes all gates.

    Args:
        registry: the registry.
        challenger: the version on trial.
        terms: what is looked at and what must be shown.
        move: False judges only.
        by: who promotes, kept with the version.

    Raises:
        InvalidSettings: the models restore different bands, or the challenger is the champion already.
        InvalidCheckpoint: an artefact is missing or was changed.
        ChampionChanged: another version became the champion during the trial.
        UnknownModel: there is no champion.
        ServiceUnavailable: the registry does not answer.
    """
    promotion.settle(registry, challenger.name)
    champion = registry.resolve(f"models:/{challenger.name}@{CHAMPION}")
    trial = hold_trial(registry, champion, challenger, terms)
    if not (move and trial.verdict.passed):
        return Decision(trial, None)
    why = f"{by}: {trial.contest.sentence}; {len(trial.verdict.checks)} gates passed"
    return Decision(trial, promotion.promote(registry, challenger, why, against=champion.version))


def hold_trial(registry: Registry, champion: ModelVersion, challenger: ModelVersion, terms: Terms) -> Trial:
    """Compare and judge two versions; the report with its pictures and the gate table are kept with the challenger.

    Raises:
        InvalidSettings: the models restore different bands.
        InvalidCheckpoint: an artefact is missing or was changed.
        ServiceUnavailable: the registry does not answer.
    """
    with tempfile.TemporaryDirectory(prefix="unveil-trial-") as folder:
        report = Path(folder) / REPORT
        report.mkdir()
        contest = _contest(registry, champion, challenger, terms, report)
        shadow = _shadow(registry, champion, challenger, terms, Path(folder) / "shadow", report)
        trial = Trial(champion.version, challenger.version, contest, shadow, judge(contest, terms.gates, shadow))
        document = as_json(trial.verdict)
        pictures = sorted(path.name for path in report.glob("*.png"))
        (report / "report.md").write_text(as_markdown(trial, pictures), "utf-8")
        (report / "gates.json").write_text(json.dumps(document, indent=2) + "\n", "utf-8")
        registry.keep(challenger, report, REPORT)
    registry.note(challenger, {GATES_TAG: json.dumps(document | {"champion": champion.version})})
    return trial


def _contest(
    registry: Registry, champion: ModelVersion, challenger: ModelVersion, terms: Terms, report: Path
) -> Contest:
    old, new = (Entrant(registry.weights(v), registry.calibration(v)) for v in (champion, challenger))
    return compare(
        old,
        new,
        terms.cases,
        terms.sampling,
        lambda name, picture: Image.fromarray(picture.transpose(1, 2, 0)).save(report / f"contest-{name}.png"),
    )


def _shadow(
    registry: Registry, champion: ModelVersion, challenger: ModelVersion, terms: Terms, work: Path, report: Path
) -> Shadow | None:
    if terms.run is None:
        return None
    old, new = (model_of(terms.run, registry, version) for version in (champion, challenger))
    return shadow_run(terms.run, old, new, terms.shadow_scenes, work, report)
