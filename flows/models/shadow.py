"""Champion and challenger make the same published products again, side by side; nothing is published."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pystac
from PIL import Image, ImageChops

from flows.errors import KNOWN_ERRORS, InvalidPlan
from flows.ledger.schema import Planned, State
from flows.ledger.store import open_ledger
from flows.planning.plan_file import settings_of, thaw
from flows.planning.search import find_scenes
from flows.planning.workunit import ModelRef, WorkUnit
from flows.processing.product import make_product, quality_of
from flows.progress import report_progress
from flows.settings import RunSettings
from stac.product.layers import RESTORED, Provenance
from stac.quality.parts import EVERYTHING, Product
from stac.reflectance import PRODUCT_SCALE

#: How much the difference of two pictures is amplified.
_AMPLIFIED = 4
_FROM_MODEL = [p for p in RESTORED if p is not Provenance.OTHER_DATES]


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured on one product; None where a figure is not defined."""

    #: Whether it passes the quality gate of the run that published the scene.
    passed: bool
    residual_cloud: float | None
    seam_ratio: float | None
    #: Mean half-width of the 90 % interval, reflectance.
    half_width: float | None
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowScene:
    """One published scene, made again by both models."""

    #: Of the published item, and of the scene it restores.
    item_id: str
    target_id: str
    #: Pixels that the models restored, and the mean absolute difference between the models there, reflectance.
    pixels: int
    difference: float
    #: Observed pixels in which the products differ.
    changed_pixels: int
    champion: Measured
    challenger: Measured


@dataclass(frozen=True, slots=True)
class Shadow:
    """A shadow run."""

    scenes: tuple[ShadowScene, ...]
    #: Why published scenes were left out, one sentence each.
    skipped: tuple[str, ...] = ()

    @property
    def refusals(self) -> int:
        """Products that pass the quality gate with the champion and not with the challenger."""
        return sum(scene.champion.passed and not scene.challenger.passed for scene in self.scenes)

    @property
    def changed_pixels(self) -> int:
        """Observed pixels in which products differ."""
        return sum(scene.changed_pixels for scene in self.scenes)

    @property
    def cloud_gain(self) -> float | None:
        """Mean residual cloud of the challenger above the champion's, share of the restored pixels."""
        pairs = self._pairs(lambda found: found.residual_cloud)
        return float(np.mean([new - old for old, new in pairs])) if pairs else None

    @property
    def seam_ratio(self) -> float | None:
        """Mean seam ratio of the challenger over the champion's."""
        return _ratio(self._pairs(lambda found: found.seam_ratio))

    @property
    def width_ratio(self) -> float | None:
        """Mean half-width of the challenger over the champion's."""
        return _ratio(self._pairs(lambda found: found.half_width))

    def _pairs(self, read: Callable[[Measured], float | None]) -> list[tuple[float, float]]:
        found = [(read(scene.champion), read(scene.challenger)) for scene in self.scenes]
        return [(old, new) for old, new in found if old is not None and new is not None]


def _ratio(pairs: Sequence[tuple[float, float]]) -> float | None:
    old, new = sum(pair[0] for pair in pairs), sum(pair[1] for pair in pairs)
    return new / old if old > 0 else None


def shadow_run(
    settings: RunSettings, champion: ModelRef, challenger: ModelRef, most: int, work: Path, pictures: Path
) -> Shadow:
    """Make the scenes published last again with both models, with the settings they were planned with.

    Args:
        settings: say where catalog, ledger and source are.
        champion: the model that makes mosaics.
        challenger: the other one.
        most: so many scenes, the latest first; a scene that is gone from its source is left out.
        work: empty folder for products and blocks.
        pictures: folder for a picture per scene: champion, challenger, and their difference amplified.

    Raises:
        LedgerUnavailable: the ledger does not answer.
    """
    found: list[ShadowScene] = []
    skipped: list[str] = []
    here = settings.model_copy(update={"out": work / "catalog", "state_dir": work / "state"})
    for number, (planned, request) in enumerate(_published(settings, most)):
        report_progress(f"{planned.entry.target_id}: shadow run")
        folders = (work / f"{number}-champion", work / f"{number}-challenger")
        try:
            plan = thaw(request, [planned.unit])
            own, unit = settings_of(plan, here), plan.units[0]
            items = _items_of(unit, own)
            measured = [_made(unit, items, own, m, f) for m, f in zip((champion, challenger), folders, strict=True)]
            found.append(_beside(planned, measured[0], measured[1], folders, own.bands))
            _draw(folders, pictures / f"shadow-{planned.entry.item_id}.png")
        except KNOWN_ERRORS as error:
            skipped.append(f"{planned.entry.item_id}: {error}")
    return Shadow(tuple(found), tuple(skipped))


def _published(settings: RunSettings, most: int) -> Iterator[tuple[Planned, str]]:
    """Yield the plans of the products published last, with the request they belong to."""
    ledger = open_ledger(settings)
    try:
        latest = [entry.work_id for entry in ledger.page(most, state=State.SUCCEEDED).entries] if most else []
        plans = {planned.entry.work_id: planned for planned in ledger.plans_of(latest)}
        requests = {name: ledger.request(plans[name].request_id) or "" for name in latest}
    finally:
        ledger.close()
    yield from ((plans[name], requests[name]) for name in latest)


def _items_of(unit: WorkUnit, settings: RunSettings) -> dict[str, pystac.Item]:
    """Return the scenes of a unit by id.

    Raises:
        InvalidPlan: one is no longer in the source.
    """
    names = {name for date in unit.dates for name in date}
    items = {item.id: item for item in find_scenes(settings)[0] if item.id in names}
    if gone := sorted(names - items.keys()):
        raise InvalidPlan(f"Scene {gone[0]} is no longer in the source.")
    return items


def _made(
    unit: WorkUnit, items: Mapping[str, pystac.Item], settings: RunSettings, model: ModelRef, folder: Path
) -> Measured:
    """Make a product in a new folder and measure it."""
    folder.mkdir(parents=True)
    began = time.monotonic()
    # Finished blocks are known by the unit, and every model has its own.
    make_product(replace(unit, work_id=str(uuid.uuid4())), items, settings, model, folder)
    seconds = time.monotonic() - began
    quality = quality_of(folder, settings.bands, settings.quality_gate)
    restored = quality.figures.groups.get(EVERYTHING)
    return Measured(
        passed=quality.gate is None or quality.verdict.passed,
        residual_cloud=None if restored is None else restored.residual_cloud,
        seam_ratio=quality.figures.seam_ratio,
        half_width=None if restored is None else restored.half_width_mean,
        seconds=seconds,
    )


def _beside(
    planned: Planned, old: Measured, new: Measured, folders: tuple[Path, Path], bands: tuple[str, ...]
) -> ShadowScene:
    pixels = changed = 0
    difference = 0.0
    parts = [Product.open(folder, bands).parts(reach=0) for folder in folders]
    for one, other in zip(*parts, strict=True):
        apart = np.abs(one.data - other.data)[:, *one.core].mean(axis=0)
        model = np.isin(one.own, _FROM_MODEL)
        observed = (one.own == Provenance.OBSERVED) | (other.own == Provenance.OBSERVED)
        pixels, difference = pixels + int(model.sum()), difference + float(apart[model].sum())
        changed += int((apart[observed] > 0).sum())
    return ShadowScene(
        item_id=planned.entry.item_id,
        target_id=planned.entry.target_id,
        pixels=pixels,
        difference=difference * PRODUCT_SCALE / max(pixels, 1),
        changed_pixels=changed,
        champion=old,
        challenger=new,
    )


def _draw(folders: tuple[Path, Path], path: Path) -> None:
    """Write both products and their amplified difference beside each other."""
    old, new = (Image.open(folder / "thumbnail.png").convert("RGB") for folder in folders)
    apart = ImageChops.difference(old, new).point(lambda value: min(255, value * _AMPLIFIED))
    joined = Image.new("RGB", (3 * old.width, old.height))
    for place, picture in enumerate((old, new, apart)):
        joined.paste(picture, (place * old.width, 0))
    joined.save(path)
