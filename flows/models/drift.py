"""Drift of a model: its baseline from the scenes it was trained on, and the last restored units against it."""

from __future__ import annotations

import tempfile
from itertools import islice
from pathlib import Path

from de_model import checkpoint
from de_model.errors import InvalidCheckpoint
from flows.drift.compare import DriftReport, compare, statistics_of
from flows.drift.statistics import (
    NO_BASELINE,
    SKY,
    Baseline,
    Histogram,
    UnitStatistics,
    baseline_of,
    input_statistics,
    output_statistics,
)
from flows.errors import InvalidSettings
from flows.ledger.schema import State
from flows.ledger.store import status
from flows.models.registry import Registry
from flows.planning.search import SceneSet, cloudy_and_clear, dated_stacks_of
from flows.processing.restore import measured_options, restore_date
from flows.progress import report_progress
from flows.settings import RunSettings
from flows.settings.restoring import RestorationOptions
from stac.load.stack import Stack
from stac.product.block_store import Block, blocks_of
from stac.product.layers import ProductLayers
from stac.product.writer import write_product
from stac.quality.assess import assess

#: A date is cut into parts of at most this share of its side: how far they differ is what chance may do.
_PARTS_A_SIDE = 2
#: Published units among which the last ones of a model are looked for.
_LOOKED_AT = 1000


def make_baseline(
    scenes: SceneSet, weights: Path, options: RestorationOptions, most_restored: int | None = None
) -> Baseline:
    """Return the statistics of a training set: of all its dates, and of what the model makes of the cloudy ones.

    Args:
        scenes: what the model was trained on.
        weights: the model.
        options: how scenes are restored; the intervals are those of the model's own table.
        most_restored: cloudy dates of a cell that are restored, the first ones; all when left out. The others hold
            their input only.

    Raises:
        InvalidSettings: a cell has no scenes, or the cells hold no pair of a cloudy and a clear date.
    """
    own = measured_options(options, weights)
    enhancer = checkpoint.load(weights)
    units: list[UnitStatistics] = []
    pairs: list[str] = []
    for stack, dates in dated_stacks_of(scenes):
        cloudy, clear = cloudy_and_clear(stack)
        pairs += [f"{stack.item_ids[c]} <- {stack.item_ids[k]}" for c in cloudy for k in clear]
        for index, date in enumerate(dates):
            report_progress("drift baseline", index, len(dates))
            restored = index in cloudy[:most_restored]
            layers = restore_date(stack, index, enhancer, own).layers if restored else None
            for part in _parts(stack):
                found = input_statistics(stack.window(part.rows, part.columns), index, date.items)
                if index not in cloudy:
                    # A clear date shows the ground, but not which sky the model is used under.
                    del found[SKY.name]
                if layers is not None:
                    found |= _made(layers.window(part.rows, part.columns))
                units.append(UnitStatistics(f"{date.id} {part.name.removesuffix('.block')}", found))
    if not pairs:
        raise InvalidSettings(f"Cells {', '.join(scenes.cells)} hold no pair of a cloudy and a clear date.")
    return Baseline(checkpoint.sha256_of(weights), scenes.title, tuple(pairs), tuple(units))


def _parts(stack: Stack) -> list[Block]:
    height, width = (int(n) for n in stack.cell.geobox.shape)
    side = -(-max(height, width) // _PARTS_A_SIDE)
    return blocks_of(slice(0, height), slice(0, width), side)


def _made(layers: ProductLayers) -> dict[str, Histogram]:
    """Return the statistics of a restored part, measured on its written files as those of a product are."""
    with tempfile.TemporaryDirectory(prefix="unveil-baseline-") as name:
        folder = Path(name)
        write_product([layers], layers.geobox, layers.bands, layers.data, folder)
        return output_statistics(assess(folder, layers.bands))


def look(settings: RunSettings) -> DriftReport:
    """Return how the last units that the settings' model restored compare with its training set.

    Raises:
        InvalidSettings: this catalog has no unit that this model restored.
        InvalidCheckpoint: the model has no baseline, or one that cannot be read.
        UnknownModel, ServiceUnavailable: the model cannot be had.
    """
    published = status(settings, state=State.SUCCEEDED, limit=_LOOKED_AT).entries
    if not published:
        raise InvalidSettings(
            f"The ledger in {settings.state} has no published unit of {settings.out}; start unveil run first, or name "
            "--out."
        )
    registry = Registry.of(settings)
    version = registry.resolve(settings.model)
    baseline = baseline_of(registry.weights(version))
    if baseline is None:
        raise InvalidCheckpoint(NO_BASELINE)
    found = (statistics_of(entry.item_id, settings, version.sha256) for entry in published)
    units = list(islice((each for each in found if each is not None), settings.drift_last))
    if not units:
        raise InvalidSettings(
            f"{version.name} version {version.version} has restored nothing yet in {settings.out}; "
            "start unveil run first, or name another --model."
        )
    return compare(units, baseline)
