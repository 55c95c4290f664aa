"""The flows `promote` and `watch-models`: a challenger becomes the champion, and everybody hears of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact

from flows.models import promotion
from flows.models.contest import Contest
from flows.models.gates import judge
from flows.models.promotion_watch import Move, watch
from flows.models.registry import CHAMPION, MODEL_NAME, Registry
from flows.retrain import contest
from flows.retraining.settings import Promotion, load_retrain_settings
from flows.settings import RunSettings


@dataclass(frozen=True, slots=True)
class PromoteSummary:
    """What a promotion came to."""

    name: str
    #: Version that was judged.
    challenger: str
    #: Version that makes mosaics now.
    champion: str
    contest: Contest | None
    #: Why it was refused, one sentence each.
    reasons: tuple[str, ...]
    promoted: bool


@flow(name="promote", log_prints=False, persist_result=False, retries=0)
def promote(settings: dict[str, Any] | None = None, version: str | None = None, force: bool = False) -> PromoteSummary:
    """Let the challenger meet the champion, and promote it if it passes the gates and `promotion` is automatic.

    With `promotion: manual`, the default, the contest is held and reported and no alias moves: a person reads the
    report, then runs this again with `automatic`, or `force`, or uses `unveil promote`.

    Args:
        settings: names and values of `RetrainSettings`: model, squares of the contest, gates, promotion.
        version: what is judged; the challenger when left out.
        force: promote without a contest.

    Raises:
        UnknownModel: there is no challenger, or no such version.
        InvalidSettings: it is the champion already.
    """
    wanted = load_retrain_settings(settings or {})
    registry = Registry(wanted.state, wanted.mlflow_uri)
    registry.ensure_shipped()
    uri = f"models:/{wanted.model}/{version}" if version else f"models:/{wanted.model}@{promotion.CHALLENGER}"
    challenger = registry.resolve(uri)
    champion = registry.resolve(f"models:/{wanted.model}@{CHAMPION}").version
    watch(registry, wanted.model)
    found: Contest | None = None
    reasons: tuple[str, ...] = ()
    if not force:
        found = contest(wanted.model_dump(mode="json"), champion, challenger.version)
        reasons = judge(found, wanted.gates).reasons
    promoted = force or (not reasons and wanted.promotion is Promotion.AUTOMATIC)
    if promoted:
        why = "by the flow promote" + (", without a contest" if found is None else f": {found.sentence}")
        champion = promotion.promote(registry, challenger, why).champion
        watch(registry, wanted.model)
    summary = PromoteSummary(wanted.model, challenger.version, champion, found, reasons, promoted)
    create_markdown_artifact(as_markdown(summary), key="promote-report", description="Report of this promotion")
    return summary


@flow(name="watch-models", log_prints=False, persist_result=False, retries=0)
def watch_models(settings: dict[str, Any] | None = None, model: str = MODEL_NAME) -> Move | None:
    """Notice that the champion is another one than before, also after a promotion by hand in MLflow.

    Args:
        settings: names and values of `RunSettings`: where the registry is.
        model: name of the registered model.
    """
    wanted = RunSettings(**(settings or {}))
    return watch(Registry(wanted.state, wanted.mlflow_uri), model)


def as_markdown(summary: PromoteSummary) -> str:
    """Return the report of a promotion."""
    outcome = "promoted" if summary.promoted else "refused" if summary.reasons else "passed; nothing was moved"
    lines = [f"# promote\n\n{summary.name} version {summary.challenger}: {outcome}."]
    if summary.contest is not None:
        lines.append(f"Against the champion: {summary.contest.sentence}.")
    lines.append(f"Champion: version {summary.champion}.")
    return "\n\n".join([*lines, *(f"- {reason}" for reason in summary.reasons)]) + "\n"
