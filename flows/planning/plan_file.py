"""A plan as a file: frozen today, looked at by people, executed exactly so later."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pystac
from pydantic import BaseModel, ValidationError

from flows import __version__
from flows.errors import InvalidPlan
from flows.planning.candidates import Refused
from flows.planning.workunit import ModelRef, Plan, WorkUnit, make_plan
from flows.settings import RunSettings
from flows.settings.fields import Mark, setting_name
from flows.settings.run_settings import marked
from stac.errors import InvalidInput, StacError, UnreadableAsset
from stac.io.files import write_json, writing
from stac.search.static import SAMPLE

_TYPE, _VERSION = "unveil-plan", 1


class PlannedModel(BaseModel, frozen=True):
    """The registered version that units were planned with."""

    name: str
    version: str
    sha256: str


class FrozenPlan(BaseModel, frozen=True):
    """Work units with the settings and the model they were planned with."""

    #: By name, without folders and services; the model by its version.
    settings: dict[str, Any]
    model: PlannedModel
    units: tuple[WorkUnit, ...]

    @property
    def request(self) -> str:
        """Settings and model as one JSON document: the same for all plans that share them."""
        return json.dumps(self.model_dump(mode="json", exclude={"units"}), sort_keys=True, separators=(",", ":"))

    def document(self) -> dict[str, Any]:
        """The plan as JSON values, with a checksum over what is executed."""
        body = self.model_dump(mode="json")
        about = {"type": _TYPE, "version": _VERSION, "created": datetime.now(UTC).isoformat(timespec="seconds")}
        return {**about, "software": f"unveil-eo {__version__}", "checksum": _checksum(body), **body}


def freeze(units: Iterable[WorkUnit], settings: RunSettings, model: ModelRef) -> FrozenPlan:
    """Return a plan that names everything its execution depends on."""
    values = {name: value for name, value in settings.shareable.items() if name not in marked(Mark.LOCAL)}
    if settings.source != SAMPLE and "://" not in settings.source:
        # A catalog on disk is the same one wherever the plan is executed from.
        values["source"] = str(Path(settings.source).resolve())
    values["model"] = f"models:/{model.name}/{model.version}"
    planned = PlannedModel(name=model.name, version=model.version, sha256=model.sha256)
    return FrozenPlan(settings=values, model=planned, units=tuple(units))


def thaw(request: str, units: Iterable[str]) -> FrozenPlan:
    """Return the plan of units that a ledger kept, as JSON, with their request.

    Raises:
        InvalidPlan: what was kept is not understood, e.g. by an older version.
    """
    try:
        body = {**json.loads(request), "units": [json.loads(unit) for unit in units]}
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidPlan("The ledger has lost the settings of its units; run the command that made them.") from error
    return _plan(body, "the ledger")


def settings_of(plan: FrozenPlan, local: RunSettings) -> RunSettings:
    """Return the settings of a plan with the places, services and device of who executes it.

    Raises:
        InvalidPlan: a setting is not known here, e.g. in a plan of another version.
    """
    here = {name: getattr(local, name) for name in marked(Mark.LOCAL)}
    try:
        return RunSettings(**{**plan.settings, **here})
    except ValidationError as error:
        name = setting_name(error.errors()[0]["loc"])
        raise InvalidPlan(f"Setting {name} of the plan is not understood here; freeze a new plan.") from error


def write_plan(path: Path, plan: FrozenPlan) -> Path:
    """Write a plan, whole or not at all.

    Raises:
        DiskFull, NotWritable: the file cannot be written.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, plan.document())
    return path


def read_plan(path: Path) -> FrozenPlan:
    """Read a plan and check that it is as it was frozen.

    Raises:
        InvalidPlan: the file cannot be read, is not a plan, or was changed.
    """
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InvalidPlan(
            f"{path} cannot be read as a plan ({reason}); make one with `unveil plan --freeze`."
        ) from error
    if not isinstance(found, dict) or (found.get("type"), found.get("version")) != (_TYPE, _VERSION):
        raise InvalidPlan(f"{path} is not a plan of this version; make one with `unveil plan --freeze`.")
    if found.get("checksum") != _checksum({name: found.get(name) for name in ("settings", "model", "units")}):
        raise InvalidPlan(f"{path} was changed after it was frozen; freeze a new plan instead of editing one.")
    return _plan(found, str(path))


def revive(plan: FrozenPlan, items: Sequence[pystac.Item], settings: RunSettings, model: ModelRef) -> Plan:
    """Return the frozen units as they can be made of the scenes found now; those that changed are refused.

    Hrefs come from the source, never from the file, and a unit counts as the same only when its id comes out the same.

    Raises:
        InvalidPlan: the model is not the one the plan was frozen with.
    """
    if model.sha256 != plan.model.sha256:
        raise InvalidPlan(
            f"Model {model.name} version {model.version} is not the one the plan was frozen with (sha256 differs); "
            "freeze a new plan."
        )
    found = {item.id: item for item in items}
    units, refused = [], []
    for unit in plan.units:
        try:
            units.append(_again(unit, found, settings, model))
        except StacError as error:
            refused.append(Refused.because(error, unit.target_id))
    return Plan(tuple(units), tuple(refused), len(items))


def _again(unit: WorkUnit, found: Mapping[str, pystac.Item], settings: RunSettings, model: ModelRef) -> WorkUnit:
    names = [name for date in unit.dates for name in date]
    gone = [name for name in names if name not in found]
    if gone:
        raise InvalidInput(f"Scene {gone[0]} of the plan is no longer in the source; freeze a new plan.")
    planned = make_plan([found[name] for name in names], settings, model)
    for again in planned.units:
        if again.work_id == unit.work_id:
            return again
    refused = next((each for each in planned.refused if each.target_id == unit.target_id), None)
    if refused is not None and refused.failed:
        raise UnreadableAsset(refused.reason)
    reason = "its scenes have changed" if refused is None else refused.reason
    raise InvalidInput(f"Unit {unit.item_id} cannot be made as planned ({reason}); freeze a new plan.")


def _checksum(body: Mapping[str, Any]) -> str:
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def _plan(body: Mapping[str, Any], where: str) -> FrozenPlan:
    try:
        return FrozenPlan.model_validate_json(json.dumps(body), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        name = setting_name(first["loc"]) or "its content"
        raise InvalidPlan(
            f"The plan in {where} is not understood ({name}: {first['msg'][:200]}); freeze a new plan."
        ) from error
    except (ValueError, RecursionError) as error:
        raise InvalidPlan(f"The plan in {where} is not understood; freeze a new plan.") from error
