"""The second edition: training on an archive of scenes, of a listing of places or of a catalog's grid squares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from de_model import checkpoint
from de_model.card import ModelCard
from de_model.data.archive import Scene, read_archive, write_archive
from de_model.data.cases import CaseMixture, CaseSource, CaseStream
from de_model.enhancer import Enhancer
from de_model.scene.design import AnotherDay, SceneDesign, SceneSizes
from de_model.scene.training import SceneTrainingOptions, fitted_share, train_scene
from de_model.training.course import Observer, StageResult
from de_model.training.stages import Stage, StageOptions
from flows.errors import InvalidSettings
from flows.models.training_places import read_listing, scenes_of, scenes_of_stacks
from flows.models.training_plan import Log, TrainingPlan, begin, options_text, revision, store_of
from flows.models.training_request import TrainingRequest

#: Seeds of the cases of every stage beside that of the training: what rests on a network must not learn from its errors
#: on cases that it knows.
_CASE_SEEDS = (31, 37, 41, 47, 43)
#: Cases that the logit of W is fitted on, in batches.
_SHARE_BATCHES, _SHARE_SIZE = 10, 4
#: Side of a case, pixels.
_SIDE = 160
#: Stages at effort 1; fine-tuning is slower.
_SCHEDULE = (
    StageOptions(Stage.REFERENCE, 8000, 5, _SIDE, 1, 8e-4),
    StageOptions(Stage.FINE, 3350, 5, _SIDE, 1, 7e-4),
    StageOptions(Stage.ALLOCATION, 500, 5, _SIDE, 1, 5e-4),
    StageOptions(Stage.JOINT, 1500, 5, _SIDE, 1, 1e-3),
)
#: Round values near the best on 15 pairs of dates of four places that are trained on, every place counting alike.
_ANOTHER_DAY = AnotherDay(share=0.3, haze=(1.0, 0.8, 0.8), vegetation=(0.27, 0.4))
#: Chosen on 336 groups of pixels of six held-out places; each place alone gives the same by the other five.
_KEPT = ((0.3, 0.6), (0.6, 1.0))
#: Of clouds laid on other ground, and gaps. Pairs of two dates are for the joint stage alone: there are so few that
#: whole networks would learn by heart what changed between them.
_TRANSPLANT, _GAP = 0.55, 0.45
_FINE_TUNING = 0.3
#: Added to the logit of W after it is fitted: on places that are not trained on the diffusion errs more. Chosen on
#: those held out, where W is then about the best constant, for a fifth of what is gained on real dates.
_CAUTION = 1.0


def plan_on_scenes(request: TrainingRequest, log: Log) -> TrainingPlan:
    """Return the training of the second edition, on an archive of scenes: a listing of places, or a catalog's cells."""
    found = _imagery(request)
    archive = request.folder / "archive"
    fingerprint = write_archive(archive, found.scenes)
    kept = read_archive(archive, found.held_out)
    stages, options = _stages(request), SceneTrainingOptions(seed=request.seed)
    cases = [_cases(request, kept, number, options) for number in range(len(stages))]
    first, last = cases[0].source, cases[-1].source
    log(f"{len(first.grounds)} grounds, {len(first.layers)} clouds, {len(last.pairs)} pairs")
    card = _card(request, found, fingerprint, stages, options)
    enhancer = begin(card, request)
    store = store_of(request, card, "scene")

    def run(observers: Sequence[Observer]) -> tuple[Enhancer, tuple[StageResult, ...]]:
        lessons = list(zip(stages, cases, strict=True))
        results = train_scene(enhancer, lessons, options, store, request.save_every, observers)
        return _with_fitted_share(enhancer.cpu(), _cases(request, kept, len(cases), options)), results

    return TrainingPlan(card, tuple(scene.info.name for scene in kept), found.source, run, store.folder)


def _with_fitted_share(enhancer: Enhancer, cases: CaseStream) -> Enhancer:
    """Return the model whose W is drawn towards a constant as far as fresh cases of the training's places ask for."""
    design = enhancer.card.scene
    if enhancer.scene is None or design is None:
        return enhancer
    factor, added = fitted_share(enhancer.scene, cases, _SHARE_BATCHES, _SHARE_SIZE, design.t_start)
    sizes = replace(design.sizes, share_logit=(factor, added + _CAUTION))
    again = Enhancer(replace(enhancer.card, scene=replace(design, sizes=sizes)))
    again.load_state_dict(enhancer.state_dict())
    return again


@dataclass(frozen=True, slots=True)
class _Imagery:
    """What there is to train on."""

    scenes: Sequence[Scene]
    #: Places that are read and never trained on.
    held_out: tuple[str, ...]
    bands: tuple[str, ...]
    #: In words, and where it is from.
    title: str
    source: str


def _imagery(request: TrainingRequest) -> _Imagery:
    if request.places is not None:
        listing = read_listing(request.places, request.data)
        scenes = scenes_of(listing)
        names = sorted({scene.info.place for scene in scenes} - set(listing.held_out))
        title = f"{len(names)} places: {', '.join(names)}"
        return _Imagery(scenes, listing.held_out, listing.bands, title, str(listing.root))
    if not request.cells:
        raise InvalidSettings("There is nothing to train on; give --places LISTING, or --cell MGRS-33TWM.")
    scenes = [s for s in scenes_of_stacks(request) if not request.only or s.info.name in request.only]
    held_out = tuple(cell for cell in request.validation_cells if cell in request.cells)
    return _Imagery(scenes, held_out, request.bands, request.title, request.source)


def _cases(request: TrainingRequest, scenes: Sequence[Scene], part: int, options: SceneTrainingOptions) -> CaseStream:
    """Return the cases of a stage, or those after the last one, which the logit of W is fitted on."""
    joint = part >= len(_SCHEDULE) - 1
    pairs = options.joint_pairs if joint else 0.0
    mixture = CaseMixture(_TRANSPLANT * (1 - pairs), _GAP * (1 - pairs), pairs)
    source = CaseSource(scenes, _SIDE, request.seed + _CASE_SEEDS[part], mixture)
    if not source.grounds or not source.layers:
        raise InvalidSettings(
            f"The archive holds {len(source.grounds)} scenes of clear ground of {source.size + 16} px and "
            f"{len(source.layers)} clouds; a training needs one of each: add scenes."
        )
    return CaseStream(source)


def _stages(request: TrainingRequest) -> tuple[StageOptions, ...]:
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
    found: _Imagery,
    fingerprint: str,
    stages: Sequence[StageOptions],
    options: SceneTrainingOptions,
) -> ModelCard:
    design, bands = SceneDesign(sizes=SceneSizes(kept=_KEPT), another_day=_ANOTHER_DAY), found.bands
    if request.start is not None:
        known = checkpoint.read_card(request.start)
        design, bands = known.scene or design, known.bands
        # W is trained as it learns it, and fitted again afterwards.
        design = replace(design, sizes=replace(design.sizes, share_logit=(1.0, 0.0)))
    return ModelCard(
        preset=request.size,
        bands=bands,
        gsd_m=min(scene.info.gsd_m for scene in found.scenes),
        trained_on=found.title,
        data_fingerprint=fingerprint,
        revision=revision(),
        training=options_text(request, asdict(options), stages),
        scene=design,
    )
