"""The flow `retrain`: mine, fine-tune, register, compare, and promote or leave waiting."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact

from de_model import checkpoint
from de_model.training.options import States, TrainingOptions
from flows.clear_scenes import RETRIES
from flows.gpu import gpu_slot
from flows.loading import load_settings
from flows.models import promotion
from flows.models.contest import Contest, cases_found, compare
from flows.models.gates import judge
from flows.models.registry import CHAMPION, Registry
from flows.models.training import train_model
from flows.models.training_pairs import mine_pairs
from flows.models.training_request import Tracking, TrainingRequest
from flows.progress import tell
from flows.retraining import training_set
from flows.retraining.settings import Promotion, RetrainSettings, load_retrain_settings
from flows.stacks import stacks_of


@dataclass(frozen=True, slots=True)
class Mined:
    """What was found to train on."""

    #: File of the training set.
    path: str
    version: int
    pairs: int
    new: int


@dataclass(frozen=True, slots=True)
class RetrainSummary:
    """What a retraining did."""

    training_set: Mined
    #: Version that was the champion when the flow began.
    champion: str
    #: Version that was trained, None where nothing was.
    challenger: str | None
    contest: Contest | None
    #: Why the challenger was refused, one sentence each.
    reasons: tuple[str, ...]
    promoted: bool


@task(name="mine pairs", **RETRIES)
def mine(settings: Mapping[str, Any]) -> Mined:
    """Find all pairs of the squares that are trained on; keep them as a version of the training set."""
    wanted = load_retrain_settings(dict(settings))
    cells, _ = wanted.split()
    before = training_set.latest(wanted.folder)
    trained = _trained_on(wanted)
    pairs, _ = mine_pairs(wanted.scenes(cells))
    found = training_set.describe(pairs, cells, before)
    path = training_set.write(found, wanted.folder)
    return Mined(str(path), found.version, len(found.pairs), len(found.new_since(trained)))


@task(name="fine-tune", **RETRIES)
def fine_tune(settings: Mapping[str, Any], mined: Mined, champion: str) -> str:
    """Train the champion's weights on; return the path of the challenger's. A killed training is continued.

    Args:
        settings: of the retraining.
        mined: the training set.
        champion: version to start from.
    """
    wanted = load_retrain_settings(dict(settings))
    registry = _registry(wanted)
    start = registry.weights(registry.resolve(f"models:/{wanted.model}/{champion}"))
    card = checkpoint.read_card(start)
    name = f"set{mined.version:05d}-from{champion}"
    request = TrainingRequest(
        scenes=wanted.scenes(wanted.split()[0]),
        out=wanted.folder / f"{name}.safetensors",
        work=wanted.folder / f"{name}.work",
        preset=card.preset,
        stages=wanted.stages,
        start=start,
        effort=wanted.effort,
        weight_mode=card.weight_mode,
        reference=card.reference,
        synthetic=wanted.synthetic,
        options=TrainingOptions(seed=wanted.seed, states=States.ROLLOUT),
        tracking=Tracking(registry.uri, registry.artifact_root),
    )
    with gpu_slot():
        train_model(request, log=get_run_logger().info)
    return str(request.out)


@task(name="register challenger", **RETRIES)
def register(settings: Mapping[str, Any], weights: str, mined: Mined) -> str:
    """Register the weights as the challenger; return its version."""
    wanted = load_retrain_settings(dict(settings))
    registry = _registry(wanted)
    version = registry.register(Path(weights), wanted.model)
    registry.note(version, {"unveil_training_set": str(mined.version), "unveil_training_pairs": str(mined.pairs)})
    promotion.nominate(registry, version)
    return version.version


@task(name="contest", **RETRIES)
def contest(settings: Mapping[str, Any], champion: str, challenger: str) -> Contest:
    """Let both models restore the squares that were held out."""
    wanted = load_retrain_settings(dict(settings))
    registry = _registry(wanted)
    files = [registry.weights(registry.resolve(f"models:/{wanted.model}/{v}")) for v in (champion, challenger)]
    sampling = load_settings(None, {"prior": "none"}).restoration.sampling
    cases = cases_found(stacks_of(wanted.scenes(wanted.split()[1])))
    with gpu_slot():
        return compare(files[0], files[1], cases, sampling)


@flow(name="retrain", log_prints=False, persist_result=False, retries=0)
def retrain(settings: dict[str, Any] | None = None) -> RetrainSummary:
    """Fine-tune the champion on new pairs, compare, and promote what passes the gates if so configured.

    Args:
        settings: names and values of `RetrainSettings`.
    """
    wanted = load_retrain_settings(settings or {})
    values, registry = wanted.model_dump(mode="json"), _registry(wanted)
    wanted.split()
    registry.ensure_shipped()
    champion = registry.resolve(f"models:/{wanted.model}@{CHAMPION}").version
    tell("mining pairs")
    mined = mine(values)
    summary = RetrainSummary(mined, champion, None, None, (), False)
    if mined.new >= wanted.least_new_pairs:
        tell(f"fine-tuning on {mined.pairs} pairs, {mined.new} of them new")
        challenger = register(values, fine_tune(values, mined, champion), mined)
        found = contest(values, champion, challenger)
        verdict = judge(found, wanted.gates)
        promoted = verdict.passed and wanted.promotion is Promotion.AUTOMATIC
        if promoted:
            version = registry.resolve(f"models:/{wanted.model}/{challenger}")
            promotion.promote(registry, version, f"by retrain: {found.sentence}")
        summary = replace(summary, challenger=challenger, contest=found, reasons=verdict.reasons, promoted=promoted)
    create_markdown_artifact(as_markdown(summary), key="retrain-report", description="Report of this retraining")
    return summary


def as_markdown(summary: RetrainSummary) -> str:
    """Return the report of a retraining."""
    found = summary.training_set
    pairs = f"Training set version {found.version}: {found.pairs} pairs, {found.new} new."
    lines = ["# retrain", f"{pairs} Champion: version {summary.champion}."]
    if summary.contest is None:
        return "\n\n".join([*lines, "Too few new pairs: nothing was trained.\n"])
    outcome = "promoted" if summary.promoted else "refused" if summary.reasons else "passed; `unveil promote` moves it"
    lines += [f"Challenger: version {summary.challenger}, {summary.contest.sentence}: {outcome}."]
    return "\n\n".join([*lines, *(f"- {reason}" for reason in summary.reasons)]) + "\n"


def as_record(summary: RetrainSummary) -> dict[str, Any]:
    """Return the summary as JSON values."""
    return asdict(summary)


def _registry(settings: RetrainSettings) -> Registry:
    return Registry(settings.state, settings.mlflow_uri)


def _trained_on(settings: RetrainSettings) -> training_set.TrainingSet | None:
    """Return the newest training set that a registered version was trained on."""
    versions = _registry(settings).versions(settings.model)
    numbers = [int(v.tags["unveil_training_set"]) for v in versions if "unveil_training_set" in v.tags]
    known = [settings.folder / f"training-set-{number:05d}.json" for number in sorted(numbers)]
    present = [path for path in known if path.is_file()]
    return training_set.read(present[-1]) if present else None
