"""Training of either edition: what is trained on, the stages, what is kept of them, and the run in MLflow."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from de_model import checkpoint
from de_model.card import ModelCard
from de_model.data.archive import Scene, read_archive, write_archive
from de_model.data.case_stream import CaseStream
from de_model.data.cases import CaseMixture, CaseSource
from de_model.data.pairs import PairData
from de_model.enhancer import Enhancer
from de_model.errors import InvalidCheckpoint, InvalidModelInput
from de_model.scene.design import SceneDesign, SceneSizes
from de_model.scene.training import (
    SceneProgress,
    SceneStage,
    SceneStageOptions,
    SceneTrainingOptions,
    fitted_share,
    train_scene,
)
from de_model.training.stages import Stage, StageOptions
from de_model.training.store import Store
from de_model.training.trainer import Observer, Progress, StageResult, check, train
from de_model.training.validation import Validation
from flows.errors import InvalidSettings
from flows.models.tracking import Lineage, tracked
from flows.models.training_data import TrainingData, mine_pairs, training_data_of
from flows.models.training_places import scenes_of, scenes_of_stacks
from flows.models.training_request import TrainingReport, TrainingRequest, plan_stages
from stac.errors import NotWritable

Log = Callable[[str], None]


def _no_log(_: str) -> None:
    """Do nothing."""


#: Names of pairs that are logged before training; data sets have thousands.
_NAMED = 12
#: Seeds of the cases of every stage beside that of the training: what rests on a network must not learn from its errors
#: on cases that it knows.
_CASE_SEEDS = (31, 37, 41, 43)
#: Cases that the logit of W is fitted on, in batches.
_SHARE_BATCHES, _SHARE_SIZE = 10, 4
#: Stages at effort 1; fine-tuning is slower.
_SCHEDULE = (
    SceneStageOptions(SceneStage.REFERENCE, 8000, 5, 8e-4),
    SceneStageOptions(SceneStage.PREDICTOR, 3350, 5, 7e-4),
    SceneStageOptions(SceneStage.ALLOCATION, 500, 5, 5e-4),
)
#: For blue, green, red, near infrared: chosen on the cloudy and clear dates of two places of the listing, with weights
#: that had seen neither.
_ANOTHER_DAY = (0.3, -1.0, -0.7, -0.5, -0.2)
#: Chosen on 336 groups of pixels of six held-out places; each place alone gives the same by the other five.
_KEPT = ((0.3, 0.6), (0.6, 1.0))
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


@dataclass(frozen=True, slots=True)
class _Plan:
    """A training that can begin."""

    lineage: Lineage
    #: What a person would compare runs by.
    parameters: dict[str, str]
    #: Trains, telling observers; returns the finished model, and what came of its stages.
    run: Callable[[Sequence[Observer]], tuple[Enhancer, tuple[StageResult, ...]]]


def train_model(request: TrainingRequest, observers: Sequence[Observer] = (), log: Log = _no_log) -> TrainingReport:
    """Train a model and write it to `request.out`; a training that was stopped is continued from `request.work`.

    A request that lists places, or starts from weights of the second edition, trains a model of the second edition.

    Raises:
        TrainingFailed: gradients or the loss stay non-finite, memory is too small, or no patch is usable.
        InvalidSettings, InvalidModelInput: the request makes no sense.
        InvalidCheckpoint: `start` has another architecture, or `work` belongs to another training.
        NotWritable: `out` or `work` cannot be written.
        ServiceUnavailable: MLflow cannot be used.
    """
    for path in (request.out, request.work / "any"):
        _check_writable(path)
    second = request.places is not None or (
        request.start is not None and checkpoint.read_card(request.start).scene is not None
    )
    plan = _on_archive(request, log) if second else _on_pairs(request, log)
    with tracked(request.tracking, request.work, plan.parameters, plan.lineage, log) as tracker:
        enhancer, results = plan.run([*observers, *([] if tracker is None else [tracker])])
        checkpoint.save(enhancer.cpu(), request.out)
        run = None if tracker is None else tracker.run_id
        sha256 = checkpoint.sha256_of(request.out)
        report = TrainingReport(request.out, sha256, enhancer.card, results, plan.lineage.pairs, run)
        if tracker is not None:
            tracker.finished(report.as_record())
    return report


def _check_writable(path: Path) -> None:
    """Make the folder of `path`; raise `NotWritable` now rather than after hours of training."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
        if path.is_dir():
            raise IsADirectoryError(0, "it is a folder")
    except OSError as error:
        raise NotWritable(f"{path} cannot be written ({error.strerror or error}); choose another place.") from error


def _revision() -> str:
    """Return the version-control revision of this code, or `unknown` outside a checkout."""
    try:
        command = ["git", "rev-parse", "HEAD"]
        found = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return found.stdout.strip()


def _begin(card: ModelCard, request: TrainingRequest) -> Enhancer:
    """Return the model to train, on its device: random, or with the weights that the request starts from.

    Raises:
        InvalidCheckpoint: the weights have another architecture than the card says.
    """
    torch.manual_seed(request.options.seed)
    enhancer, start = Enhancer(card).channels_last(), request.start
    if start is None:
        return enhancer.to(request.device)
    origin = checkpoint.load(start)
    # The networks of the second edition depend on their design and the bands alone.
    names = ("bands",) if card.scene is not None else ("preset", "bands", "timesteps", "reference")
    for name in names:
        there, here = getattr(origin.card, name), getattr(card, name)
        if there != here:
            raise InvalidCheckpoint(f"{start} has {name} {there}, this training has {here}; give weights that fit.")
    try:
        enhancer.load_state_dict(origin.state_dict())
    except RuntimeError as error:
        detail = str(error).splitlines()[-1].strip()
        raise InvalidCheckpoint(f"{start} has another architecture than this training ({detail}).") from error
    return enhancer.to(request.device)


def _training_of(
    request: TrainingRequest, options: dict[str, Any], stages: Sequence[StageOptions] | Sequence[SceneStageOptions]
) -> str:
    """Return the options of a training as the model's card keeps them, JSON."""
    start = None if request.start is None else checkpoint.sha256_of(request.start)
    said = {"effort": request.effort, "start": start, "stages": [asdict(stage) for stage in stages]}
    return json.dumps(options | said)


def _on_pairs(request: TrainingRequest, log: Log) -> _Plan:
    """Return the training of the first edition, on cloudy and clear pairs."""
    stages = plan_stages(request)
    material = training_data_of(request.scenes, request.folder, request.gsd_m)
    log(f"{len(material.names)} pairs: " + "; ".join(material.names[:_NAMED]))
    validation = _validation(request, material.bands)
    card = _card_of_pairs(request, material, stages)
    enhancer = _begin(card, request)
    check(enhancer, material.data, stages, request.options)
    store = _store(request, card)

    def run(observers: Sequence[Observer]) -> tuple[Enhancer, tuple[StageResult, ...]]:
        results = train(
            enhancer,
            material.data,
            stages,
            request.options,
            store=store,
            save_every=request.save_every,
            validation=validation,
            observers=observers,
        )
        return enhancer, results

    lineage = Lineage(card.trained_on, material.data.fingerprint, material.names, material.source)
    return _Plan(lineage, _parameters(request, card), run)


def _validation(request: TrainingRequest, bands: tuple[str, ...]) -> Validation | None:
    shared = set(request.validation_cells) & set(request.scenes.cells)
    if shared:
        raise InvalidSettings(f"Cell {min(shared)} is trained on; validate on another one.")
    if not request.validation_cells:
        return None
    pairs, _ = mine_pairs(replace(request.scenes, cells=request.validation_cells, bands=bands))
    return Validation(PairData(pairs), request.validate_every)


def _card_of_pairs(request: TrainingRequest, material: TrainingData, stages: Sequence[StageOptions]) -> ModelCard:
    reference: dict[str, Any] = {} if request.reference is None else {"reference": request.reference}
    return ModelCard(
        preset=request.preset,
        bands=material.bands,
        gsd_m=material.gsd_m,
        trained_on=material.title,
        data_fingerprint=material.data.fingerprint,
        revision=_revision(),
        training=_training_of(request, request.options.identity() | {"seed": request.options.seed}, stages),
        weight_mode=request.weight_mode,
        **reference,
    )


def _store(request: TrainingRequest, card: ModelCard) -> Store:
    training = json.loads(card.training)
    identity = {
        "data": card.data_fingerprint,
        "preset": str(card.preset),
        "bands": ",".join(card.bands),
        "reference": str(card.reference),
        "weight_mode": str(card.weight_mode),
        **{name: json.dumps(value) for name, value in training.items()},
    }
    return Store(request.work, identity)


def _parameters(request: TrainingRequest, card: ModelCard) -> dict[str, str]:
    """Return what a person would compare runs by."""
    training = json.loads(card.training)
    flat = {name: str(value) for name, value in training.items() if name != "stages"}
    for stage in training["stages"]:
        flat |= {f"{stage['stage']}.{name}": str(value) for name, value in stage.items() if name != "stage"}
    return flat | {
        "preset": str(card.preset),
        "bands": ",".join(card.bands),
        "weight_mode": str(card.weight_mode),
        "accumulate": str(request.options.accumulate),
        "device": request.device,
        "revision": card.revision,
    }


def _on_archive(request: TrainingRequest, log: Log) -> _Plan:
    """Return the training of the second edition, on an archive of scenes: a listing of places, or a catalog's cells."""
    scenes, held_out, title, source = _scenes(request)
    archive = request.work / "archive"
    fingerprint = write_archive(archive, scenes)
    kept = read_archive(archive, held_out)
    cases = [_cases(request, kept, fingerprint, log, number) for number in range(len(_SCHEDULE))]
    stages, options = _stages(request), SceneTrainingOptions(seed=request.options.seed)
    card = _card_of_scenes(request, kept, title, fingerprint, stages, options)
    enhancer = _begin(card, request)
    networks = enhancer.scene
    if networks is None:
        raise InvalidModelInput("The card names no design of the second edition.")

    def run(observers: Sequence[Observer]) -> tuple[Enhancer, tuple[StageResult, ...]]:
        report = _Reporter(observers)
        for own, stage in zip(cases, stages, strict=True):
            train_scene(networks, own, (stage,), options, request.work / "scene", report, request.save_every)
        finished = _with_fitted_share(enhancer.cpu(), _cases(request, kept, fingerprint, log, len(cases)))
        return finished, tuple(report.result(stage) for stage in stages)

    parameters = {
        "preset": str(card.preset),
        "bands": ",".join(card.bands),
        "edition": "2",
        "effort": str(request.effort),
        "device": request.device,
    }
    return _Plan(Lineage(title, fingerprint, tuple(scene.info.name for scene in kept), source), parameters, run)


@dataclass(slots=True)
class _Reporter:
    """Hands the progress of a training to observers of the first edition's kind."""

    observers: Sequence[Observer]
    #: Of every stage that was trained now.
    last: dict[SceneStage, SceneProgress] = field(default_factory=dict)

    def __call__(self, progress: SceneProgress) -> None:
        """Call every observer."""
        self.last[progress.stage] = progress
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

    def result(self, stage: SceneStageOptions) -> StageResult:
        """Return what came of a stage; without any progress it was finished before."""
        last = self.last.get(stage.stage)
        if last is None:
            return StageResult(_NAMES[stage.stage], stage.steps, before=True)
        return StageResult(_NAMES[stage.stage], stage.steps, images_per_s=last.cases_per_s, losses={"loss": last.loss})


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
    scenes = [s for s in scenes_of_stacks(request.scenes) if not request.only or s.info.name in request.only]
    title = f"{request.scenes.collection} {request.scenes.interval}, cells {', '.join(request.scenes.cells)}"
    return scenes, request.validation_cells, title, request.scenes.source


def _cases(request: TrainingRequest, scenes: Sequence[Scene], fingerprint: str, log: Log, part: int) -> CaseStream:
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


def _card_of_scenes(
    request: TrainingRequest,
    scenes: Sequence[Scene],
    title: str,
    fingerprint: str,
    stages: Sequence[SceneStageOptions],
    options: SceneTrainingOptions,
) -> ModelCard:
    design, bands = SceneDesign(sizes=SceneSizes(kept=_KEPT)), request.scenes.bands
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
        revision=_revision(),
        training=_training_of(request, asdict(options), stages),
        scene=design,
    )
