"""A training as an MLflow run: parameters, loss curves, sample pictures, data lineage and the final card.

The client is used throughout, never MLflow's global state.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from de_model.training.course import Observer, Progress, StageResult
from de_model.training.stage_run import Restored, sample_grid
from de_model.training.stages import Stage
from flows.errors import ServiceUnavailable
from flows.models.mlflow_access import TRAINING_EXPERIMENT, dataset_input, experiment_of, open_client, plain_errors
from flows.models.training_plan import TrainingPlan

if TYPE_CHECKING:
    from mlflow import MlflowClient

#: File in the work folder with the id of the run, so that a continued training continues its run.
RUN_FILE = "mlflow-run.json"

#: Points of a loss curve per stage, and the most values MLflow takes at once.
_POINTS, _BATCH = 200, 1000


class Tracker(Observer):
    """Logs a training to one run; a store that fails on the way is reported once and does not stop training."""

    def __init__(
        self, client: MlflowClient, uri: str, run_id: str, bands: tuple[str, ...], log: Callable[[str], None]
    ) -> None:
        self.client, self.uri, self.run_id, self.bands, self.log = client, uri, run_id, bands, log
        self._waiting: list[tuple[str, float, int]] = []
        self._silenced = False

    def on_step(self, progress: Progress) -> None:
        """Note a point of the loss curve now and then, and at the end."""
        every = max(1, progress.steps // _POINTS)
        if progress.step % every and progress.step != progress.steps:
            return
        values = {f"loss_{name}": value for name, value in progress.losses.items()}
        values |= {
            "learning_rate": progress.learning_rate,
            "images_per_s": progress.images_per_s,
            "waiting": progress.waiting,
            "skipped": progress.skipped,
        }
        self._note(progress.stage, progress.step, values)

    def on_validation(self, stage: Stage, step: int, scores: dict[str, float]) -> None:
        """Note the scores."""
        self._note(stage, step, {f"validation_{name}": value for name, value in scores.items()})

    def on_samples(self, stage: Stage, step: int, images: Restored) -> None:
        """Keep a sample grid as PNG."""
        picture = sample_grid(images, self.bands)
        self._sent(partial(self.client.log_image, self.run_id, picture, f"samples/{stage}-{step:08d}.png"))

    def on_saved(self) -> None:
        """Send what is waiting: after a stop the curve goes on here."""
        self.flush()

    def on_stage_end(self, result: StageResult) -> None:
        """Note how long the stage took and send what is waiting."""
        self._note(result.stage, result.steps, {"seconds": result.seconds})
        self.flush()

    def _note(self, stage: Stage, step: int, values: Mapping[str, float]) -> None:
        self._waiting += [(f"{stage}/{name}", value, step) for name, value in values.items() if math.isfinite(value)]

    def flush(self) -> None:
        """Send the values noted since the last time; they are kept when that fails."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        while self._waiting:
            batch = [Metric(key, value, now, step) for key, value, step in self._waiting[:_BATCH]]
            if not self._sent(partial(self.client.log_batch, self.run_id, metrics=batch)):
                return
            del self._waiting[: len(batch)]

    def finished(self, report: Mapping[str, Any]) -> None:
        """Keep the report with the final card."""
        self.flush()
        self._sent(lambda: self.client.log_dict(self.run_id, dict(report["card"]), "card.json"))
        self._sent(lambda: self.client.log_dict(self.run_id, dict(report), "report.json"))
        self._sent(lambda: self.client.set_tag(self.run_id, "sha256", report["sha256"]))

    def end(self, status: str) -> None:
        """Close the run."""
        self.flush()
        self._sent(lambda: self.client.set_terminated(self.run_id, status))

    def _sent(self, send: Callable[[], object]) -> bool:
        """Send something; return whether the store took it."""
        try:
            with plain_errors(self.uri):
                send()
        except (ServiceUnavailable, OSError) as error:
            if not self._silenced:
                self.log(f"Training goes on without tracking for now: {error}")
            self._silenced = True
            return False
        return True


@contextlib.contextmanager
def tracked(
    uri: str | None,
    parameters: Mapping[str, str],
    plan: TrainingPlan,
    log: Callable[[str], None],
) -> Iterator[Tracker | None]:
    """Keep a run open while the context is; it ends as FINISHED, FAILED, or KILLED when interrupted.

    Args:
        uri: of the MLflow server or database; None tracks nothing.
        parameters: options by name.
        plan: the model, its data, and its folder, which remembers the run.
        log: called with one sentence when tracking fails on the way.

    Raises:
        ServiceUnavailable: MLflow cannot be used at all.
    """
    if uri is None:
        yield None
        return
    client = open_client(uri)
    with plain_errors(uri):
        run_id = _run(client, uri, parameters, plan)
    tracker = Tracker(client, uri, run_id, plan.card.bands, log)
    status = "FAILED"
    try:
        yield tracker
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        tracker.end(status)


def _run(client: MlflowClient, uri: str, parameters: Mapping[str, str], plan: TrainingPlan) -> str:
    """Return the run of this training, taken up again where there is one."""
    from mlflow.entities import Param

    path = plan.folder / RUN_FILE
    known = _remembered(client, path, uri)
    if known is not None:
        client.update_run(known, status="RUNNING")
        return known
    card = plan.card
    name = f"{card.preset} {card.data_fingerprint[:8]}"
    run_id = str(client.create_run(experiment_of(client, uri, TRAINING_EXPERIMENT), run_name=name).info.run_id)
    client.log_batch(run_id, params=[Param(key, value[:6000]) for key, value in parameters.items()])
    profile = {"pairs": list(plan.names), "sha256": card.data_fingerprint}
    data = dataset_input("training", card.trained_on, card.data_fingerprint, {"catalog": plan.source}, profile)
    client.log_inputs(run_id, datasets=[data])
    path.write_text(json.dumps({"uri": uri, "run": run_id}), "utf-8")
    return run_id


def _remembered(client: MlflowClient, path: Path, uri: str) -> str | None:
    """Return the run an earlier part of this training was tracked in, if it is still there."""
    from mlflow.exceptions import MlflowException

    try:
        record = json.loads(path.read_text("utf-8"))
        if record["uri"] != uri:
            return None
        return str(client.get_run(record["run"]).info.run_id)
    except (OSError, ValueError, KeyError, MlflowException):
        return None
