"""Work units: what is to be restored, from what, with a name that follows from the inputs alone."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pystac

from flows.errors import InvalidSettings
from flows.settings import RunSettings
from stac.errors import EmptySearch, InvalidInput
from stac.grid import Cell, cell_of, grid_code

#: Raised when the same inputs give other pixels than before.
ALGORITHM = "unveil/2"
_NAMESPACE = uuid.UUID("6f1d3f0a-52f4-5b0e-9a51-6f2f9f1f7a35")


@dataclass(frozen=True, slots=True)
class ModelRef:
    """The model of a run: its registered version and the fetched weights."""

    name: str
    version: str
    sha256: str
    weights: str


@dataclass(frozen=True, slots=True)
class WorkUnit:
    """One date of one cell. Two units with the same inputs have the same id, on any machine."""

    work_id: str
    #: Id of the product's item.
    item_id: str
    #: Id of the source item whose date is restored.
    target_id: str
    #: Ids of the other dates of the cell.
    donor_ids: tuple[str, ...]
    cell_id: str
    #: Area, pixels.
    pixels: int
    #: Cloud cover that the source declares, percent.
    cloud_cover: float


@dataclass(frozen=True, slots=True)
class Refused:
    """A scene that cannot become a work unit."""

    target_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run would do."""

    units: tuple[WorkUnit, ...]
    refused: tuple[Refused, ...]
    #: Scenes found, targets and donors.
    scenes: int


def cloud_cover(item: pystac.Item) -> float:
    """Return the declared cloud cover in percent; 100 when the item does not say."""
    return float(item.properties.get("eo:cloud_cover", 100.0))


def make_plan(items: Sequence[pystac.Item], settings: RunSettings, model: ModelRef) -> Plan:
    """Return the work units for scenes found by a search that was widened by `prior_days`.

    Raises:
        EmptySearch: no scene lies in the interval and cloud range.
    """
    targets = list(_targets(items, settings))
    units, refused = [], []
    for target in targets:
        try:
            units.append(_unit(target, _donors(target, items, settings), settings, model))
        except InvalidInput as error:
            refused.append(Refused(target.id, str(error)))
    return Plan(tuple(units), tuple(refused), len(items))


def _targets(items: Sequence[pystac.Item], settings: RunSettings) -> Iterator[pystac.Item]:
    query = settings.query
    inside = [item for item in items if item.datetime is not None and query.contains(item.datetime)]
    if not inside:
        raise EmptySearch(
            f"No scene of {settings.collection} in {settings.datetime}"
            f"{f' within {settings.bbox}' if settings.bbox else ''}; widen --datetime or --bbox."
        )
    wanted = [item for item in inside if settings.min_cloud <= cloud_cover(item) <= settings.max_cloud]
    if not wanted:
        covers = sorted(cloud_cover(item) for item in inside)
        raise EmptySearch(
            f"{len(inside)} scenes were found, with {covers[0]:.0f} to {covers[-1]:.0f} % cloud, none within "
            f"{settings.min_cloud:g} to {settings.max_cloud:g} %; change --min-cloud or --max-cloud."
        )
    yield from wanted


def _donors(target: pystac.Item, items: Sequence[pystac.Item], settings: RunSettings) -> list[pystac.Item]:
    """Return the other scenes of the target's grid square within `prior_days`, by time."""
    code, when = grid_code(target), target.datetime
    others = [i for i in items if i.id != target.id and grid_code(i) == code and i.datetime and when]
    near = [i for i in others if abs((i.datetime - when).days) <= settings.prior_days]  # type: ignore[operator] # both are set
    return sorted(near, key=lambda i: (str(i.datetime), i.id))


def _unit(target: pystac.Item, donors: Sequence[pystac.Item], settings: RunSettings, model: ModelRef) -> WorkUnit:
    cell = target_cell(target, settings)
    if cell.pixels > settings.max_pixels:
        raise InvalidInput(
            f"Scene {target.id} covers {cell.pixels / 1e6:.0f} million pixels, more than "
            f"{settings.max_pixels / 1e6:.0f} million; choose a smaller --bbox or raise max_pixels."
        )
    identity = {
        "algorithm": ALGORITHM,
        "target": _version(target),
        "donors": [_version(item) for item in donors],
        "cell": cell.id,
        "model": {"name": model.name, "sha256": model.sha256},
        "parameters": settings.parameters,
    }
    work_id = work_id_of(identity)
    return WorkUnit(
        work_id=work_id,
        item_id=f"{target.id}-unveil-{work_id[:8]}",
        target_id=target.id,
        donor_ids=tuple(item.id for item in donors),
        cell_id=cell.id,
        pixels=cell.pixels,
        cloud_cover=cloud_cover(target),
    )


def target_cell(target: pystac.Item, settings: RunSettings) -> Cell:
    """Return the cell a target is restored in.

    Raises:
        InvalidInput: the item has no usable grid, or the box does not touch it.
    """
    bbox = settings.query.bbox
    return cell_of(target, settings.bands[0], bbox)


def work_id_of(identity: Mapping[str, Any]) -> str:
    """Return the UUID5 of an identity document: the same on every machine and in every order of keys."""
    return str(uuid.uuid5(_NAMESPACE, json.dumps(identity, sort_keys=True, separators=(",", ":"))))


def _version(item: pystac.Item) -> list[str]:
    """Return what tells a reprocessed scene from the one before."""
    properties = item.properties
    names = ("updated", "s2:generation_time", "processing:datetime", "version")
    return [item.collection_id or "", item.id, *(str(properties.get(name, "")) for name in names)]


def check_bands(settings: RunSettings, bands: Sequence[str]) -> None:
    """Raise `InvalidSettings` unless the run's bands are the model's."""
    if tuple(settings.bands) != tuple(bands):
        asked, known = ", ".join(settings.bands), ", ".join(bands)
        raise InvalidSettings(f"Bands {asked} were asked for, the model restores {known}; set bands to these.")
