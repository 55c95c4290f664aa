"""Champion and challenger of the registry on the same cases and scenes: evaluated, judged, and kept with both."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from flows.models.evaluation import Case, Usage, evaluate
from flows.models.evaluation_figures import Evaluation
from flows.models.evaluation_report import as_markdown, metrics_of, plain
from flows.models.gates import ChampionComparison, Gates, compared, judge
from flows.models.registry import Registry, model_of
from flows.models.shadow import shadow_run
from flows.models.version import ModelVersion
from flows.settings import RunSettings

#: Folder of the report with the run of a version, and the tag with its gate table.
REPORT, GATES_TAG = "evaluation", "unveil_gates"


def compare_versions(
    registry: Registry,
    champion: ModelVersion,
    challenger: ModelVersion,
    *,
    cases: Callable[[], Iterable[Case]],
    usage: Usage,
    gates: Gates,
    run: RunSettings,
    shadow_scenes: int = 0,
) -> ChampionComparison:
    """Compare and judge two versions; figures become metrics of both, report and gate table stay with the challenger.

    Args:
        registry: of both.
        champion: makes today's mosaics.
        challenger: what is judged.
        cases: what both restore.
        usage: how a model restores the cases.
        gates: what must be shown.
        run: say where the catalog is whose scenes are made again.
        shadow_scenes: published scenes that are made again, at most; without any no shadow run is made.

    Raises:
        InvalidSettings: the models restore different bands, or no case was found.
        InvalidCheckpoint: an artefact is missing or was changed.
        ServiceUnavailable: the registry does not answer.
    """
    versions = (champion, challenger)
    old, new = (evaluate(registry.weights(version), cases(), usage) for version in versions)
    with tempfile.TemporaryDirectory(prefix="unveil-comparison-") as folder:
        report = Path(folder) / REPORT
        report.mkdir()
        shadow = None
        if shadow_scenes:
            one, other = (model_of(run, registry, version) for version in versions)
            shadow = shadow_run(run, one, other, shadow_scenes, Path(folder) / "shadow", report)
        comparison = compared(old, new)
        judged = ChampionComparison(
            champion.version, challenger.version, comparison, shadow, judge(comparison, gates, shadow)
        )
        _draw(old, new, report)
        document = plain(judged.verdict.document())
        pictures = sorted(path.name for path in report.glob("*.png"))
        (report / "report.md").write_text(as_markdown(judged, new, pictures), "utf-8")
        (report / "gates.json").write_text(json.dumps(document, indent=2) + "\n", "utf-8")
        with registry.session() as client:
            client.log_artifacts(challenger.run_id, str(report), REPORT)
    place = ", ".join(new.places)
    gated = {f"gate/{c.name.replace(' ', '_')}": c.value for c in judged.verdict.checks if c.value is not None}
    for version, figures in ((champion, metrics_of(old)), (challenger, metrics_of(new) | gated)):
        registry.log_metrics(version, figures, place, new.digest)
    with registry.session() as client:
        table = json.dumps(document | {"champion": champion.version})
        client.set_model_version_tag(challenger.name, challenger.version, GATES_TAG, table)
    return judged


def _draw(old: Evaluation, new: Evaluation, report: Path) -> None:
    """Write cloudy scene, restoration and truth of every case, the champion's above the challenger's."""
    for number, (one, other) in enumerate(zip(old.cases, new.cases, strict=True)):
        if one.picture is not None and other.picture is not None:
            both = np.concatenate([one.picture, other.picture], axis=1)
            Image.fromarray(both.transpose(1, 2, 0)).save(report / f"case-{number:02d}.png")
