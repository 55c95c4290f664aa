"""The flow `retrain`: find new scenes, fine-tune, calibrate, register, try, and promote or leave waiting."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact

from de_model import checkpoint
from de_model.calibration import calibration_of, calibration_path
from de_model.validation import validation_path
from flows.drift.statistics import baseline_path
from flows.errors import InvalidSettings
from flows.models import promotion, training_set
from flows.models.comparison import GATES_TAG, compare_versions
from flows.models.drift import make_baseline
from flows.models.evaluation import Case, cases_of, evaluate, every_second_pair, fit_calibration
from flows.models.gates import ChampionComparison
from flows.models.model_item import publish_promoted
from flows.models.registry import CHAMPION, Registry
from flows.models.retrain_settings import PromotionMode, RetrainSettings, load_retrain_settings
from flows.models.training import train_model
from flows.models.training_request import TrainingRequest
from flows.planning.search import dates_of, stacks_of
from flows.processing.model import in_products
from flows.progress import report_progress
from flows.running.tasks import RETRIES, gpu_slot

#: Tag of a version with the number of the training set it was trained on.
_SET_TAG = "unveil_training_set"
#: Side of the part of each date that intervals are fitted on, pixels.
_CALIBRATION_PX = 128


@dataclass(frozen=True, slots=True)
class TrainingScenes:
    """What there is to train on."""

    #: File of the training set.
    path: str
    version: int
    scenes: int
    new: int


@dataclass(frozen=True, slots=True)
class RetrainSummary:
    """What a retraining did."""

    training_set: TrainingScenes
    #: Version that was the champion when the flow began.
    champion: str
    #: Version that was trained, None where nothing was.
    challenger: str | None
    judged: ChampionComparison | None
    #: None where the challenger was refused, or is left to a person.
    promotion: promotion.Promotion | None


@task(name="find scenes", **RETRIES)
def find(wanted: RetrainSettings, champion: str) -> TrainingScenes:
    """Find all scenes of the squares that are trained on; keep them as a version of the training set.

    No pixel is read for it. While a training is unfinished its set is kept: new scenes wait for the next retraining.

    Raises:
        InvalidSettings: a square has no scene, also one that is held out: the training could not be judged.
    """
    cells, judged = wanted.split()
    before, trained = training_set.latest(wanted.folder), _trained_on(wanted)
    if before is not None and _work(wanted, before.version, champion).is_dir() and before != trained:
        found, path = before, training_set.path_of(before.version, wanted.folder)
    else:
        by_square = list(dates_of(wanted.scenes((*cells, *judged))))
        found = training_set.describe(chain.from_iterable(by_square[: len(cells)]), cells, before)
        path = training_set.write(found, wanted.folder)
    return TrainingScenes(str(path), found.version, len(found.scenes), found.new_since(trained))


@task(name="fine-tune", **RETRIES)
def fine_tune(wanted: RetrainSettings, found: TrainingScenes, champion: str) -> str:
    """Train the champion's weights on; return the path of the challenger's. A killed training is continued.

    Raises:
        InvalidSettings: the champion is of the first edition, which learns from pairs.
    """
    registry = Registry.of(wanted.run_settings())
    start = registry.weights(registry.resolve(f"models:/{wanted.model}/{champion}"))
    card = checkpoint.read_card(start)
    if card.scene is None:
        raise InvalidSettings(
            f"Version {champion} is of the first edition; train it on with unveil train --from, or promote another one."
        )
    work = _work(wanted, found.version, champion)
    request = TrainingRequest(
        **wanted.scenes(wanted.split()[0]).model_dump(),
        out=work.with_suffix(".safetensors"),
        work=work,
        only=tuple(training_set.read(Path(found.path)).scenes),
        start=start,
        effort=wanted.effort,
        seed=wanted.seed,
        mlflow_uri=registry.uri,
    )
    with gpu_slot():
        train_model(request, log=get_run_logger().info)
    return str(request.out)


@task(name="calibrate", **RETRIES)
def calibrate(wanted: RetrainSettings, weights: str, champion: str) -> None:
    """Fit the intervals of the challenger on squares it was not trained on; the table is kept beside its weights."""
    path = Path(weights)
    registry = Registry.of(wanted.run_settings())
    known = calibration_of(registry.weights(registry.resolve(f"models:/{wanted.model}/{champion}")))
    cases = list(islice(_cases(wanted, _CALIBRATION_PX, judged=False), wanted.calibration_cases))
    table = fit_calibration(path, cases, f"{', '.join(wanted.split()[1])}: {len(cases)} cases", known)
    table.save(calibration_path(path))


@task(name="validate", **RETRIES)
def validate(wanted: RetrainSettings, weights: str) -> None:
    """Find out what the challenger is worth beside trivial fillers on the squares held out; kept beside its weights."""
    path = Path(weights)
    with gpu_slot():
        found = evaluate(path, _judged(wanted), in_products)
    found.record().save(validation_path(path))


@task(name="drift baseline", **RETRIES)
def remember_training(wanted: RetrainSettings, weights: str) -> None:
    """Note what the training set looks like: runs of the challenger are compared with it. Kept beside its weights."""
    path = Path(weights)
    cells, _ = wanted.split()
    with gpu_slot():
        options = in_products(checkpoint.read_card(path))
        baseline = make_baseline(wanted.scenes(cells), path, options, wanted.baseline_dates)
    baseline.save(baseline_path(path))


@task(name="register challenger", **RETRIES)
def register(wanted: RetrainSettings, weights: str, found: TrainingScenes) -> str:
    """Register the weights as the challenger; return its version."""
    registry = Registry.of(wanted.run_settings())
    version = registry.register(Path(weights), wanted.model)
    with registry.session() as client:
        client.log_artifact(version.run_id, found.path, "training-set")
        promotion.set_challenger(registry, version)
        # Last: this is what says that the scenes are known.
        client.set_model_version_tag(version.name, version.version, _SET_TAG, str(found.version))
    return version.version


@task(name="compare", **RETRIES)
def compare_with_champion(
    wanted: RetrainSettings, challenger: str, move: bool, by: str
) -> tuple[ChampionComparison, promotion.Promotion | None]:
    """Let both models restore the squares that were held out, and what was published; promote what passes, if asked.

    Args:
        wanted: settings of retrainings.
        challenger: version that is evaluated.
        move: False judges only.
        by: who promotes, kept with the version.

    Raises:
        InvalidSettings: the models restore different bands, or the challenger is the champion already.
        ChampionChanged: another version became the champion meanwhile.
    """
    registry = Registry.of(wanted.run_settings())
    run = wanted.run_settings()
    version = registry.resolve(f"models:/{wanted.model}/{challenger}")
    champion = registry.resolve(f"models:/{wanted.model}@{CHAMPION}")
    with gpu_slot():
        judged = compare_versions(
            registry,
            champion,
            version,
            cases=lambda: _judged(wanted),
            usage=in_products,
            gates=wanted.gates,
            run=run,
            shadow_scenes=wanted.shadow_scenes,
        )
    if not (move and judged.verdict.passed):
        return judged, None
    why = f"{by}: {judged.comparison.sentence}; {len(judged.verdict.checks)} gates passed"
    moved = promotion.promote(registry, version, why, against=champion.version)
    publish_promoted(run, registry, version)
    return judged, moved


@flow(name="retrain", log_prints=False, persist_result=False, retries=0)
def retrain(settings: RetrainSettings | None = None) -> RetrainSummary:
    """Fine-tune the champion on new scenes, try the result, and promote what passes the gates if so configured.

    Killed at any moment, the next retraining goes on: with the training, or with the evaluation of a challenger that
    was registered and not judged.

    Args:
        settings: as in a `--config` file; the environment says where things are, defaults fill the rest.
    """
    wanted = settings or load_retrain_settings()
    registry = Registry.of(wanted.run_settings())
    wanted.split()
    registry.ensure_shipped()
    champion = registry.resolve(f"models:/{wanted.model}@{CHAMPION}").version
    challenger = _waiting(registry, wanted)
    report_progress("finding scenes")
    found = find(wanted, champion)
    if challenger is None and found.new >= wanted.least_new_scenes:
        report_progress(f"fine-tuning on {found.scenes} scenes, {found.new} of them new")
        weights = fine_tune(wanted, found, champion)
        calibrate(wanted, weights, champion)
        validate(wanted, weights)
        remember_training(wanted, weights)
        challenger = register(wanted, weights, found)
    summary = RetrainSummary(found, champion, challenger, None, None)
    if challenger is not None:
        automatic = wanted.promotion is PromotionMode.AUTOMATIC
        judged, moved = compare_with_champion(wanted, challenger, automatic, "retrain")
        summary = replace(summary, judged=judged, promotion=moved)
    create_markdown_artifact(as_markdown(summary), key="retrain-report", description="Report of this retraining")
    return summary


def as_markdown(summary: RetrainSummary) -> str:
    """Return the report of a retraining."""
    found = summary.training_set
    scenes = f"Training set version {found.version}: {found.scenes} scenes, {found.new} new."
    lines = ["# retrain", f"{scenes} Champion: version {summary.champion}."]
    if summary.judged is None:
        return "\n\n".join([*lines, "Too few new scenes: nothing was trained.\n"])
    verdict = summary.judged.verdict
    outcome = "promoted" if summary.promotion else "passed; `unveil promote` moves it" if verdict.passed else "refused"
    lines += [f"Challenger: version {summary.challenger}, {summary.judged.comparison.sentence}: {outcome}."]
    return "\n\n".join([*lines, *(f"- {reason}" for reason in verdict.reasons)]) + "\n"


def _work(settings: RetrainSettings, version: int, champion: str) -> Path:
    """Return the folder of the training on a set from a champion."""
    return settings.folder / f"set{version:05d}-from{champion}.work"


def _judged(settings: RetrainSettings) -> Iterator[Case]:
    """Yield the cases that models are judged by; intervals are fitted on others, unless one pair of dates is all."""
    cases = _cases(settings, settings.comparison_window, judged=True)
    first = next(cases, None)
    every = _cases(settings, settings.comparison_window, judged=False) if first is None else chain([first], cases)
    return islice(every, settings.comparison_cases)


def _cases(settings: RetrainSettings, side: int, *, judged: bool) -> Iterator[Case]:
    """Yield the cases of the squares held out that models are judged by, or those that intervals are fitted on."""
    return every_second_pair(cases_of(stacks_of(settings.scenes(settings.split()[1])), side), later=judged)


def _waiting(registry: Registry, settings: RetrainSettings) -> str | None:
    """Return a challenger of an earlier retraining whose evaluation was interrupted, or whose promotion was."""
    for version in registry.versions(settings.model):
        if CHAMPION not in version.aliases and promotion.CHALLENGER in version.aliases and _SET_TAG in version.tags:
            verdict = json.loads(version.tags.get(GATES_TAG, "null"))
            cut_short = verdict is None or (verdict["passed"] and settings.promotion is PromotionMode.AUTOMATIC)
            return version.version if cut_short else None
    return None


def _trained_on(settings: RetrainSettings) -> training_set.TrainingSet | None:
    """Return the newest training set that a registered version was trained on."""
    versions = Registry.of(settings.run_settings()).versions(settings.model)
    numbers = [int(v.tags[_SET_TAG]) for v in versions if _SET_TAG in v.tags]
    known = [training_set.path_of(number, settings.folder) for number in sorted(numbers)]
    present = [path for path in known if path.is_file()]
    return training_set.read(present[-1]) if present else None
