"""Training of the second edition on an archive of scenes: a listing of places, or the cells of a catalog."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from de_model import checkpoint
from de_model.card import ModelCard
from de_model.data.archive import Scene, read_archive, write_archive
from de_model.data.case_stream import CaseStream
from de_model.data.cases import CaseMixture, CaseSource
from de_model.enhancer import Enhancer
from de_model.errors import InvalidCheckpoint, InvalidModelInput
from de_model.scene.design import SceneDesign
from de_model.scene.training import (
    SceneProgress,
    SceneStage,
    SceneStageOptions,
    SceneTrainingOptions,
    fitted_share,
    train_scene,
)
from de_model.training.stages import Stage
from de_model.training.trainer import Observer, Progress, StageResult
from flows.errors import InvalidSettings
from flows.models.tracking import Lineage, Tracker, tracked
from flows.models.training_places import scenes_of, scenes_of_stacks
from flows.models.training_request import TrainingReport, TrainingRequest
from flows.models.writing import check_writable, revision

#: Seeds of the cases of every stage beside that of the training: what rests on a network must not learn from its errors
#: on cases that it knows.
_CASE_SEEDS = (31, 37, 41, 43)
#: Cases that the logit of W is fitted on, in batches.
_SHARE_BATCHES, _SHARE_SIZE = 10, 4
#: Stages at effort 1; fine-tuning is slower.
_SCHEDULE = (
    SceneStageOptions(SceneStage.REFERENCE, 8000, 5, 8e-4),
    SceneStageOptions(SceneStage.PREDICTOR, 2700, 5, 1e-3),
    SceneStageOptions(SceneStage.ALLOCATION, 500, 5, 5e-4),
)
#: For blue, green, red, near infrared: chosen on the cloudy and clear dates of two places of the listing, with weights
#: that had seen neither.
_ANOTHER_DAY = (0.3, -1.0, -0.7, -0.5, -0.2)
#: Side of a case, pixels.
_SIDE = 160
#: Pairs of two dates are left out: what changed between them would be learnt by heart, there are so few.
_MIXTURE = CaseMixture(transplant=0.55, gap=0.45, pair=0.0)
_FINE_TUNING = 0.3
#: The names under which other commands know the stages.
_NAMES = {
    SceneStage.REFERENCE: Stage.REFERENCE,
    SceneStage.PREDICTOR: Stage.FINE,
    SceneStage.ALLOCATION: Stage.ALLOCATION,
}


def is_standardised(request: TrainingRequest) -> bool:
    """Return whether a request is for the second edition: it lists places, or starts from such weights."""
    if request.places is not None:
        return True
    return request.start is not None and checkpoint.read_card(request.start).scene is not None


@dataclass(slots=True)
class _Reporter:
    """Hands the progress of a training to observers of the first edition's kind."""

    observers: Sequence[Observer]
    last: SceneProgress | None = None

    def __call__(self, progress: SceneProgress) -> None:
        """Call every observer."""
        self.last = progress
        losses = {"loss": progress.loss, "waiting": progress.waiting}
        for observer in self.observers:
            observer.on_step(
                Progress(
                    _NAMES[progress.stage],
                    progress.step,
                    progress.steps,
                    losses,
                    progress.learning_rate,
                    progress.cases_per_s,
                    0,
                )
            )


def train_standardised(
    request: TrainingRequest, observers: Sequence[Observer], log: Callable[[str], None]
) -> TrainingReport:
    """Train a model of the second edition and write it to `request.out`; a stopped training goes on from its folder.

    Raises:
        TrainingFailed: the loss is not finite.
        InvalidSettings, InvalidModelInput: the request makes no sense.
        InvalidCheckpoint: `start` does not fit.
        NotWritable: `out` or `work` cannot be written.
    """
    for path in (request.out, request.work / "any"):
        check_writable(path)
    scenes, held_out, title, source = _scenes(request)
    archive = request.work / "archive"
    fingerprint = write_archive(archive, scenes)
    kept = read_archive(archive, held_out)
    cases = [_cases(request, kept, fingerprint, log, number) for number in range(len(_SCHEDULE))]
    stages = _stages(request)
    options = SceneTrainingOptions(seed=request.options.seed)
    card = _card(request, kept, title, fingerprint, stages, options)
    enhancer = _begin(card, request).to(request.device)
    if enhancer.scene is None:
        raise InvalidModelInput("The card names no design of the second edition.")
    lineage = Lineage(title, fingerprint, tuple(scene.info.name for scene in kept), source)
    parameters = {
        "preset": str(card.preset),
        "bands": ",".join(card.bands),
        "edition": "2",
        "effort": str(request.effort),
        "device": request.device,
    }
    with tracked(request.tracking, request.work, parameters, lineage, log) as tracker:
        report = _Reporter([*observers, *([] if tracker is None else [tracker])])
        for own, stage in zip(cases, stages, strict=True):
            train_scene(enhancer.scene, own, (stage,), options, request.work / "scene", report, request.save_every)
        enhancer = _with_fitted_share(enhancer.cpu(), _cases(request, kept, fingerprint, log, len(cases)))
        checkpoint.save(enhancer, request.out)
        done = _report(request, card, stages, report, kept, tracker)
        if tracker is not None:
            tracker.finished(done.as_record())
    return done


def _with_fitted_share(enhancer: Enhancer, cases: CaseStream) -> Enhancer:
    """Return the model whose W is drawn towards a constant as far as fresh cases of the training's places ask for."""
    design = enhancer.card.scene
    if enhancer.scene is None or design is None:
        return enhancer
    found = fitted_share(enhancer.scene, cases, _SHARE_BATCHES, _SHARE_SIZE, design.t_start)
    sizes = replace(design.sizes, share_logit=found)
    again = Enhancer(replace(enhancer.card, scene=replace(design, sizes=sizes)))
    again.load_state_dict(enhancer.state_dict())
    return again


def _scenes(request: TrainingRequest) -> tuple[list[Scene], tuple[str, ...], str, str]:
    """Return scenes, places that are held out, a title, and where they are from."""
    if request.places is not None:
        places = request.places
        scenes = scenes_of(places)
        names = sorted({scene.info.place for scene in scenes} - set(places.held_out))
        return scenes, places.held_out, f"{len(names)} places: {', '.join(names)}", str(places.root)
    if not request.scenes.cells:
        raise InvalidSettings("There is nothing to train on; give --places LISTING, or --cell MGRS-33TWM.")
    scenes = list(scenes_of_stacks(request.scenes))
    title = f"{request.scenes.collection} {request.scenes.interval}, cells {', '.join(request.scenes.cells)}"
    return scenes, request.validation_cells, title, request.scenes.source


def _cases(
    request: TrainingRequest, scenes: Sequence[Scene], fingerprint: str, log: Callable[[str], None], part: int
) -> CaseStream:
    source = CaseSource(scenes, _SIDE, request.options.seed + _CASE_SEEDS[part], _MIXTURE)
    if not source.grounds or not source.layers:
        raise InvalidSettings(
            f"The archive holds {len(source.grounds)} scenes of clear ground of {source.size + 16} px and "
            f"{len(source.layers)} clouds; a training needs one of each: add scenes."
        )
    if part == 0:
        log(f"{len(source.grounds)} grounds, {len(source.layers)} clouds")
    return CaseStream(source, fingerprint)


def _stages(request: TrainingRequest) -> tuple[SceneStageOptions, ...]:
    """Return the schedule, shortened or lengthened by the effort; all stages, since each rests on the one before."""
    slower = 1.0 if request.start is None else _FINE_TUNING
    return tuple(
        replace(
            stage,
            steps=max(1, round(stage.steps * request.effort)),
            batch=request.batch or stage.batch,
            learning_rate=request.learning_rate or stage.learning_rate * slower,
        )
        for stage in _SCHEDULE
    )


def _card(
    request: TrainingRequest,
    scenes: Sequence[Scene],
    title: str,
    fingerprint: str,
    stages: Sequence[SceneStageOptions],
    options: SceneTrainingOptions,
) -> ModelCard:
    training: dict[str, Any] = asdict(options) | {
        "effort": request.effort,
        "start": None if request.start is None else checkpoint.sha256_of(request.start),
        "stages": [asdict(stage) for stage in stages],
    }
    design, bands = SceneDesign(), request.scenes.bands
    if request.places is not None:
        bands = request.places.bands
        if len(bands) == len(_ANOTHER_DAY) - 1:
            design = replace(design, another_day=_ANOTHER_DAY)
    if request.start is not None:
        known = checkpoint.read_card(request.start)
        design, bands = known.scene or design, known.bands
        # W is trained as it learns it, and fitted again afterwards.
        design = replace(design, sizes=replace(design.sizes, share_logit=(1.0, 0.0)))
    return ModelCard(
        preset=request.preset,
        bands=bands,
        gsd_m=min(scene.info.gsd_m for scene in scenes),
        trained_on=title,
        data_fingerprint=fingerprint,
        revision=revision(),
        training=json.dumps(training),
        scene=design,
    )


def _begin(card: ModelCard, request: TrainingRequest) -> Enhancer:
    torch.manual_seed(request.options.seed)
    enhancer = Enhancer(card).channels_last()
    if request.start is not None:
        origin = checkpoint.load(request.start)
        if origin.card.scene is None or origin.card.bands != card.bands:
            raise InvalidCheckpoint(
                f"{request.start} restores {origin.card.bands}, this training {card.bands}; give weights of the second "
                "edition with these bands."
            )
        enhancer.load_state_dict(origin.state_dict())
    return enhancer


def _report(
    request: TrainingRequest,
    card: ModelCard,
    stages: Sequence[SceneStageOptions],
    report: _Reporter,
    scenes: Sequence[Scene],
    tracker: Tracker | None,
) -> TrainingReport:
    last = {} if report.last is None else {"loss": report.last.loss}
    rate = 0.0 if report.last is None else report.last.cases_per_s
    results = tuple(
        StageResult(_NAMES[stage.stage], stage.steps, report.last is None, 0.0, rate, 0, last) for stage in stages
    )
    run = None if tracker is None else tracker.run_id
    names = tuple(scene.info.name for scene in scenes)
    return TrainingReport(request.out, checkpoint.sha256_of(request.out), card, results, names, run)
