"""Ablation `fields`: small models of the second edition with and without each field of the card, over several seeds.

Every variant is trained on the same fresh cases of a listing's places, and judged on the places that it holds out.
What was trained is kept in `Setting.work`: the same command goes on after a stop.
"""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks.ablations.setting import Cell, Column, Findings, Setting, Spread, Table
from benchmarks.chart import Panel, Series
from benchmarks.held_out import ground_of, kinds_of
from de_model.card import ModelCard
from de_model.data.archive import Scene, read_archive, write_archive
from de_model.data.cases import Batch, Case, CaseMixture, CaseSource, CaseStream
from de_model.enhancer import Enhancer
from de_model.errors import InvalidModelInput
from de_model.metrics.baselines import interpolated
from de_model.metrics.bootstrap import Interval
from de_model.presets import Preset
from de_model.scene.design import SceneDesign, SceneSizes
from de_model.scene.model import SceneNetworks
from de_model.scene.networks import Belief, Inputs, SceneReference, Trunk, compressed, map_channels, travelling
from de_model.scene.training import SceneTrainingOptions, fitted_share, train_scene
from de_model.training.course import Observer, Progress
from de_model.training.stages import Stage, StageOptions
from de_model.training.store import Store
from de_model.validation import PixelKind
from flows.models.training_places import read_listing, scenes_of
from flows.progress import report_progress

FloatArray = NDArray[np.float32]

#: Side of a case and of the window that it is cut from, pixels.
_SIDE, _WINDOW = 64, 128
_BATCH, _LEARNING_RATE = 8, 1e-3
#: The diffusion is trained as long as the reference, the weight network for a quarter of it, both together for half.
_ALLOCATION_SHARE, _JOINT_SHARE = 0.25, 0.5
#: Cases of each held-out place, and pixels of a kind that make it count.
_JUDGED, _FEWEST_PX = 32, 60
#: Added to the seed of a training for its cases; seed of the judged cases.
_CASE_SEED, _JUDGED_SEED = 100_000, 9_000_000
_MIXTURE = CaseMixture(transplant=0.55, gap=0.45, pair=0.0)
#: Ground as it is; the clouds and gaps of the training's cases.
_AS_IT_IS = replace(_MIXTURE, invented_dates=0.0, haze=0.3, halo=0.0, changed=0.0, mixed=0.0)
_KINDS = (PixelKind.GAP_NEAR, PixelKind.GAP_FAR, PixelKind.THIN_CLOUD, PixelKind.OTHER_DATES)
#: Real cloudy dates, whose truth is a clear one in their light; share of them among the cases of a joint stage.
_PAIRS_ALONE = replace(_AS_IT_IS, transplant=0.0, gap=0.0, pair=1.0)
_REAL, _PAIRS = "real_pairs", 0.35
#: The shipped model's structure, smaller: a seventh of its parameters, scales that fit the cases.
_SIZES = SceneSizes(
    reference=(16, 24, 32), predictor=(16, 24, 32), allocation=8, scales=(3, 8, 20), kept=((0.3, 0.6), (0.6, 1.0))
)
_FULL, _PLAIN = "all fields", "plain U-Net, no diffusion"
#: Side of the blocks of the plain U-Net, pixels, and numbers of a scene that networks are given.
_FACTOR, _NUMBERS = 4, 3
_COLUMNS = (
    Column("what is changed"),
    Column("parameters"),
    *(Column(f"{kind.replace('_', ' ')}, dB", spread=True) for kind in (*_KINDS, _REAL)),
    Column("against all fields, dB", spread=True, signed=True),
)
#: Differences below are taken for none.
_TIE_DB = 0.02


@dataclass(frozen=True, slots=True)
class Way:
    """How trained networks restore."""

    t_start: int = 900
    steps: int = 1
    samples: int = 1
    eta: float = 0.3
    #: A constant in place of W.
    weight: float | None = None
    #: Whether the logit of W is fitted after the training, and estimates are drawn to the level of the scene.
    fitted: bool = True
    kept: bool = True


@dataclass(frozen=True, slots=True)
class Variant:
    """One training, and the rows of the table that it gives."""

    #: Of its folder.
    key: str
    #: None for the plain U-Net.
    sizes: SceneSizes | None
    rows: Mapping[str, Way]
    #: Whether diffusion and W are trained together at the end, and the share of real pairs among the cases then.
    joint: bool = False
    pairs: float = 0.0


_VARIANTS = (
    Variant(
        "full",
        _SIZES,
        {
            _FULL: Way(),
            "reference alone (eta 1)": Way(eta=1.0),
            "W 0.5 for all": Way(weight=0.5),
            "share_logit as learnt": Way(fitted=False),
            "kept: everything": Way(kept=False),
            "t_start 300": Way(t_start=300),
            "steps 4": Way(steps=4),
            "samples 4": Way(samples=4),
        },
    ),
    Variant("joint", _SIZES, {"a joint stage at the end": Way()}, joint=True),
    Variant("joint-pairs", _SIZES, {"a joint stage, on real pairs too": Way()}, joint=True, pairs=_PAIRS),
    Variant("residual", replace(_SIZES, kind="residual"), {"kind residual": Way()}),
    Variant("mean", replace(_SIZES, start="mean"), {"start mean": Way()}),
    Variant("one-scale", replace(_SIZES, scales=(8,)), {"scales 8 px alone": Way()}),
    Variant("no-dropout", replace(_SIZES, dropout=0.0), {"dropout 0": Way()}),
    Variant("plain", None, {_PLAIN: Way(eta=1.0)}),
)


class PlainUNet(SceneReference):
    """A residual U-Net on the same inputs: the composite, or the scene's level, plus what it learns; a variance."""

    def __init__(self, bands: int, parameters: int) -> None:
        """Make the widest network of no more than so many parameters."""
        nn.Module.__init__(self)
        for base in range(8, 256, 4):
            widths = (base, base * 5 // 3, base * 7 // 3)
            wider = Trunk(map_channels(bands), _NUMBERS, widths, 2 * bands * _FACTOR**2, _FACTOR, _SIZES.dropout)
            if base > 8 and _parameters(wider) > parameters:
                break
            self.net = wider

    def forward(self, inputs: Inputs) -> Belief:
        """Return the belief about the ground."""
        raw = nn.functional.pixel_shuffle(self.net(compressed(inputs), travelling(inputs)).float(), _FACTOR)
        mean, log_variance = raw.chunk(2, dim=1)
        return Belief(torch.where(inputs.known > 0, inputs.composite, 0) + mean, log_variance.clamp(-7, 4))


@dataclass(slots=True)
class DrawnCases:
    """The fresh cases of one seed, drawn once: every variant is given the same, each of its stages the next ones."""

    stream: CaseStream
    #: Batch that a stage begins with.
    first: int = 0
    #: Batches that were drawn, in half precision, which halves a gigabyte or two.
    kept: dict[int, Batch] = field(default_factory=dict, repr=False)

    def batches(self, first: int, last: int, size: int) -> Iterator[Batch]:
        """Yield batch `first` to `last - 1` of the stage."""
        for number in range(self.first + first, self.first + last):
            if number not in self.kept:
                (drawn,) = self.stream.batches(number, number + 1, size)
                self.kept[number] = Batch(*(part.half() for part in drawn))
            yield Batch(*(part.float() for part in self.kept[number]))


@dataclass(frozen=True, slots=True)
class _Places:
    """What is trained on and what is judged."""

    trained: Sequence[Scene]
    fingerprint: str
    #: By place; of real pairs, where it has any.
    judged: Mapping[str, Sequence[Case]] = field(repr=False)
    real: Mapping[str, Sequence[Case]] = field(repr=False)


def run(setting: Setting) -> Findings:
    """Train every variant with every seed, or take up what is in the folder, and judge it.

    Raises:
        InvalidSettings: the listing or its imagery cannot be used.
        TrainingFailed: a training's loss is not finite.
    """
    with tempfile.TemporaryDirectory() as fresh:
        work = setting.work or Path(fresh)
        places = _places(setting, work / "archive")
        bands = len(places.trained[0].image)
        found: dict[str, list[dict[str, float]]] = defaultdict(list)
        sizes: dict[str, int] = {}
        for seed in range(setting.seed, setting.seed + setting.seeds):
            cases, paired = DrawnCases(_cases(places, seed)), DrawnCases(_cases(places, seed, _PAIRS))
            for variant in _VARIANTS:
                enhancer, networks = _untrained(variant, bands, seed)
                used = networks if variant.sizes else networks.reference
                sizes |= dict.fromkeys(variant.rows, _parameters(used))
                folder = work / f"{setting.steps}-steps" / f"{variant.key}-{seed}"
                kept = folder / "figures.json"
                if not kept.is_file():
                    identity = {"data": places.fingerprint, "variant": str(variant), "seed": str(seed)}
                    store = Store(folder, identity)
                    fitted = _trained(enhancer, variant, cases, paired, store, seed, setting.steps)
                    figures = {
                        row: _judged(places, _in_way(networks, way, fitted)) for row, way in variant.rows.items()
                    }
                    kept.write_text(json.dumps(figures), "utf-8")
                for row, figure in json.loads(kept.read_text("utf-8")).items():
                    found[row].append(figure)
    return _findings(setting, places, found | _baselines(places), sizes)


def _places(setting: Setting, archive: Path) -> _Places:
    listing = read_listing(setting.places, setting.data)
    fingerprint = write_archive(archive, scenes_of(listing))
    held = read_archive(archive, only=listing.held_out)
    clouds = [scene.layer for scene in held if scene.layer is not None]
    judged: dict[str, Sequence[Case]] = {}
    real: dict[str, Sequence[Case]] = {}
    for place in sorted({scene.info.place for scene in held}):
        own = [scene for scene in held if scene.info.place == place]
        source = CaseSource(own, _SIDE, _JUDGED_SEED, _AS_IT_IS, _WINDOW)
        source.layers = clouds
        if source.grounds:
            judged[place] = [source.case(number) for number in range(_JUDGED)]
        source = CaseSource(own, _SIDE, _JUDGED_SEED, _PAIRS_ALONE, _WINDOW)
        if source.pairs:
            real[place] = [source.case(number) for number in range(_JUDGED)]
    return _Places(read_archive(archive, listing.held_out), fingerprint, judged, real)


def _parameters(networks: nn.Module) -> int:
    return sum(parameter.numel() for parameter in networks.parameters())


def _untrained(variant: Variant, bands: int, seed: int) -> tuple[Enhancer, SceneNetworks]:
    """Return a model with the random weights of the seed; the plain U-Net takes the place of the reference."""
    torch.manual_seed(seed)
    sizes = variant.sizes or _SIZES
    enhancer = Enhancer(
        ModelCard(Preset.TINY, tuple(f"band {b}" for b in range(bands)), 10.0, scene=SceneDesign(sizes))
    )
    networks = enhancer.scene
    if networks is None:
        raise InvalidModelInput("The card names no design of the second edition.")
    if variant.sizes is None:
        networks.reference = PlainUNet(bands, _parameters(networks))
    return enhancer, networks


def _trained(
    enhancer: Enhancer, variant: Variant, cases: DrawnCases, paired: DrawnCases, store: Store, seed: int, steps: int
) -> tuple[float, float]:
    """Train a model, from where it was left; return factor and constant for the logit of W."""
    stages = []
    for stage in _stages(variant, steps):
        if stage.stage is Stage.JOINT and variant.pairs:
            cases = paired
        stages.append((stage, cases))
        cases = replace(cases, first=cases.first + stage.steps)
    options = SceneTrainingOptions(seed=seed, bfloat16=False)
    train_scene(enhancer, stages, options, store, observers=[_Reported(f"{variant.key}, seed {seed}")])
    if variant.sizes is None or enhancer.scene is None:
        return 1.0, 0.0
    return fitted_share(enhancer.scene, cases, 10, _BATCH, Way().t_start)


class _Reported(Observer):
    def __init__(self, name: str) -> None:
        self.name = name

    def on_step(self, progress: Progress) -> None:
        report_progress(f"{self.name}: {progress.stage}", progress.step, progress.steps)


def _cases(places: _Places, seed: int, pairs: float = 0.0) -> CaseStream:
    mixture = CaseMixture(_MIXTURE.transplant * (1 - pairs), _MIXTURE.gap * (1 - pairs), pairs)
    return CaseStream(CaseSource(places.trained, _SIDE, _CASE_SEED + seed, mixture, _WINDOW), workers=0)


def _stages(variant: Variant, steps: int) -> tuple[StageOptions, ...]:
    """Return the stages; the plain U-Net is trained for as many steps as the first three together."""
    last = max(1, round(steps * _ALLOCATION_SHARE))
    asked = {Stage.REFERENCE: steps, Stage.FINE: steps, Stage.ALLOCATION: last}
    if variant.joint:
        asked[Stage.JOINT] = max(1, round(steps * _JOINT_SHARE))
    if variant.sizes is None:
        asked = {Stage.REFERENCE: 2 * steps + last}
    return tuple(StageOptions(stage, count, _BATCH, _SIDE, 1, _LEARNING_RATE) for stage, count in asked.items())


def _judged(places: _Places, restore: Callable[[Sequence[Case]], Iterable[FloatArray]]) -> dict[str, float]:
    """Return by kind of pixel the mean PSNR in dB: of cases, then of places, so that no place counts twice.

    Args:
        places: with the cases of each.
        restore: returns standardised reflectance `(band, y, x)` of every case.
    """
    of_places: dict[str, list[float]] = defaultdict(list)
    for cases in places.judged.values():
        for kind, values in _psnr_by_kind(cases, restore(cases)).items():
            of_places[kind].append(fmean(values))
    for cases in places.real.values():
        images = zip(cases, restore(cases), strict=True)
        of_places[_REAL].append(fmean(_psnr(case, image, case.wanted) for case, image in images))
    return {kind: fmean(values) for kind, values in of_places.items()}


def _psnr_by_kind(cases: Sequence[Case], restored: Iterable[FloatArray]) -> dict[str, list[float]]:
    """Return by kind of pixel the PSNR of every case that has enough of them, dB in reflectance."""
    found: dict[str, list[float]] = defaultdict(list)
    for case, image in zip(cases, restored, strict=True):
        for kind, where in kinds_of(case).items():
            if kind in _KINDS and where.sum() >= _FEWEST_PX:
                found[kind].append(_psnr(case, image, where))
    return found


def _psnr(case: Case, image: FloatArray, where: NDArray[np.bool_]) -> float:
    """Return the PSNR of some pixels in reflectance, dB."""
    bands = len(image)
    deviation = 0.03 * np.exp(case.numbers[bands : 2 * bands])
    error = (image - case.truth)[:, where] * deviation[:, None]
    return float(-10 * np.log10(np.square(error).mean()))


def _in_way(networks: SceneNetworks, way: Way, fitted: tuple[float, float]) -> Callable[[Sequence[Case]], FloatArray]:
    """Return what restores cases with trained networks; arguments and result as for `_judged`."""
    networks.allocation.factor, networks.allocation.added = fitted if way.fitted else (1.0, 0.0)
    networks.kept = _SIZES.kept if way.kept else ()

    @torch.inference_mode()
    def restored(cases: Sequence[Case]) -> FloatArray:
        maps, numbers = (torch.from_numpy(np.stack([getattr(c, name) for c in cases])) for name in ("maps", "numbers"))
        inputs, generator = Inputs(maps, numbers, networks.bands), torch.Generator().manual_seed(0)
        noises = [torch.randn(inputs.image.shape, generator=generator) for _ in range(way.samples)]
        found = [networks.sample(inputs, n, way.t_start, way.steps, way.eta, way.weight).mean for n in noises]
        return torch.stack(found).mean(dim=0).numpy()

    return restored


def _baselines(places: _Places) -> dict[str, list[dict[str, float]]]:
    """Return the rows of what needs no training."""

    def convolved(cases: Sequence[Case]) -> list[FloatArray]:
        return [interpolated(*ground_of(case), (0.0,) * len(case.truth)).image for case in cases]

    return {
        "flat colour": [_judged(places, lambda cases: [np.zeros_like(case.truth) for case in cases])],
        "normalised convolution": [_judged(places, convolved)],
    }


def _findings(
    setting: Setting, places: _Places, found: Mapping[str, Sequence[Mapping[str, float]]], sizes: Mapping[str, int]
) -> Findings:
    rows: list[tuple[Cell, ...]] = []
    gains: dict[str, Spread] = {}
    for row, seeds in found.items():
        gains[row] = Spread.of([fmean(a[k] - b[k] for k in _KINDS) for a, b in _paired(seeds, found[_FULL])])
        by_kind = (Spread.of([figures[kind] for figures in seeds]) for kind in (*_KINDS, _REAL))
        rows.append((row, sizes.get(row, 0), *by_kind, gains[row]))
    names = tuple(row for row in found if row != _FULL)
    bars = tuple(
        Interval(g.mean, g.mean - g.deviation, g.mean + g.deviation, setting.seeds) for g in map(gains.get, names) if g
    )
    panel = Panel("", "mean of the kinds against all fields, dB", (Series("variants", names, bars),), level=0)
    return Findings(Table(_COLUMNS, tuple(rows)), (panel,), _method(setting, places), _seen(gains))


def _paired(
    seeds: Sequence[Mapping[str, float]], full: Sequence[Mapping[str, float]]
) -> Iterator[tuple[Mapping[str, float], Mapping[str, float]]]:
    """Yield figures beside those of all fields with the same seed; what needs no training is the same for all."""
    yield from zip(seeds if len(seeds) == len(full) else [*seeds] * len(full), full, strict=True)


def _method(setting: Setting, places: _Places) -> str:
    last = _stages(_VARIANTS[0], setting.steps)[-1].steps
    return (
        f"{setting.seeds} seeds a variant; {setting.steps} steps of {_BATCH} fresh cases of {_SIDE} px for reference "
        f"and diffusion each, {last} for W, and for the plain U-Net as many as all three; a joint stage has half as "
        f"many as the reference. Judged on {_JUDGED} cases of each of {len(places.judged)} places held out "
        f"({', '.join(places.judged)}), the same for all: PSNR of the "
        "hidden pixels in reflectance, mean over cases, then places. `real pairs` are cloudy dates of "
        f"{len(places.real)} of them, whose truth is a clear date in their light; the last column is without them. "
        "± is the sample deviation over seeds, that of a difference over its seeds' differences. "
        "**These networks have a seventh of the shipped model's parameters and see some thousand cases, where that saw "
        "tens of thousands of six times the area: the table says what a field does early in a training, not how good "
        "the shipped model is** ([places](../places.md)). Levels are those of "
        f"{_WINDOW} px around a case, so the flat colour is nearer to the truth than in a whole scene, and what is "
        "drawn to it (a start at the mean of all scales, few scales, a network without a start) gains. Fields of one "
        "known value (`prediction`, `standardisation`) and those that say how a large image is cut (`tile`, `overlap`) "
        "have no row; `widths` and `another_day` are measured on the shipped model there."
    )


def _seen(gains: Mapping[str, Spread]) -> str:
    clear = {row: g for row, g in gains.items() if row in _ROWS and abs(g.mean) > max(g.deviation, _TIE_DB)}
    worse, better = ([row for row, gain in clear.items() if (gain.mean < 0) is sign] for sign in (True, False))
    plain = gains[_PLAIN]
    return (
        f"Worse than all fields by more than a deviation and {_TIE_DB} dB: {_listed(worse, gains)}. Better by as much: "
        f"{_listed(better, gains)}. The rest cannot be distinguished from all fields. The plain U-Net is at "
        f"{plain.mean:+.2f} dB (± {plain.deviation:.2f})."
    )


_ROWS = frozenset(row for variant in _VARIANTS for row in variant.rows) - {_FULL}


def _listed(rows: Sequence[str], gains: Mapping[str, Spread]) -> str:
    return ", ".join(f"{row} ({gains[row].mean:+.2f} dB)" for row in rows) or "none"
