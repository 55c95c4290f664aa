"""The flows `promote` and `watch-models`: promote a challenger and emit an event."""

from __future__ import annotations

from dataclasses import dataclass

from prefect import flow
from prefect.artifacts import create_markdown_artifact

from flows.models import promotion
from flows.models.gates import ChampionComparison
from flows.models.model_item import publish_promoted
from flows.models.promotion import Move, watch
from flows.models.registry import CHAMPION, MODEL_NAME, Registry
from flows.models.retrain_settings import RetrainSettings, load_retrain_settings
from flows.retrain import compare_with_champion
from flows.settings import RunSettings
from flows.settings.loading import load_settings


@dataclass(frozen=True, slots=True)
class PromoteSummary:
    """What a promotion came to."""

    name: str
    #: Version that was judged.
    challenger: str
    #: Version that makes mosaics now.
    champion: str
    #: None without an evaluation.
    judged: ChampionComparison | None
    #: None where no alias was moved.
    promotion: promotion.Promotion | None

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it was refused, one sentence each."""
        return () if self.judged is None else self.judged.verdict.reasons


@flow(name="promote", log_prints=False, persist_result=False, retries=0)
def promote(
    settings: RetrainSettings | None = None, version: str | None = None, force: bool = False, dry_run: bool = False
) -> PromoteSummary:
    """Try the challenger against the champion and trivial fillers on the watched area; promote it if it passes.

    The command `unveil promote` runs this flow.

    Args:
        settings: of retrainings: model, area, scenes of the shadow run, gates.
        version: what is judged; the challenger when left out.
        force: promote without an evaluation.
        dry_run: judge, but move no alias.

    Raises:
        UnknownModel: the model has no challenger, or not this version.
        InvalidSettings: it is the champion already.
    """
    wanted = settings or load_retrain_settings()
    registry = Registry.of(wanted.run_settings())
    registry.ensure_shipped()
    uri = f"models:/{wanted.model}/{version}" if version else f"models:/{wanted.model}@{promotion.CHALLENGER}"
    challenger = registry.resolve(uri)
    judged: ChampionComparison | None = None
    moved: promotion.Promotion | None = None
    if not force:
        judged, moved = compare_with_champion(wanted, challenger.version, not dry_run, "promote")
    elif not dry_run:
        moved = promotion.promote(registry, challenger, "promoted without an evaluation")
        publish_promoted(wanted.run_settings(), registry, challenger)
    champion = registry.resolve(f"models:/{wanted.model}@{CHAMPION}").version
    summary = PromoteSummary(wanted.model, challenger.version, champion, judged, moved)
    create_markdown_artifact(as_markdown(summary), key="promote-report", description="Report of this promotion")
    return summary


@flow(name="watch-models", log_prints=False, persist_result=False, retries=0)
def watch_models(settings: RunSettings | None = None, model: str = MODEL_NAME) -> Move | None:
    """Notice that the champion is another one than before, also after a promotion by hand in MLflow."""
    return watch(Registry.of(settings or load_settings()), model)


def as_markdown(summary: PromoteSummary) -> str:
    """Return the report of a promotion."""
    judged = "passed" if summary.judged else "not evaluated"
    outcome = "promoted" if summary.promotion else "refused" if summary.reasons else f"{judged}; nothing was moved"
    lines = [f"# promote\n\n{summary.name} version {summary.challenger}: {outcome}."]
    if summary.judged is not None:
        lines.append(f"Against version {summary.judged.champion}: {summary.judged.comparison.sentence}.")
    lines.append(f"Champion: version {summary.champion}.")
    return "\n\n".join([*lines, *(f"- {reason}" for reason in summary.reasons)]) + "\n"
