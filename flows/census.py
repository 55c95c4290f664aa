"""The flow `census`: every scene of an interval has a product, or somebody hears of it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact, create_table_artifact

from flows.errors import CensusIncomplete
from flows.operations.census import INCOMPLETE, Census, CensusRow
from flows.operations.census import census as count
from flows.progress import EventName, emit
from flows.settings import RunSettings
from flows.settings.loading import load_settings, recent

#: Rows of the artifact; what is missing comes first.
_ROWS = 500
#: Scenes that the event names.
_NAMED = 20


@flow(name="census", log_prints=False, persist_result=False, retries=0)
def census(
    settings: RunSettings | None = None, last_days: int | None = None, verify: bool = False, strict: bool = True
) -> Census:
    """Compare what the source has with what the catalog has; keep the table, and raise what is missing.

    Args:
        settings: as in a `--config` file; the environment and defaults fill the rest.
        last_days: count the last days instead of `datetime` of the settings.
        verify: check every published file against its checksum, too.
        strict: fail when something is missing; otherwise only the event tells.

    Raises:
        CensusIncomplete: scenes are missing, failed or broken.
        EmptySearch: the source has no scene in the area and interval.
    """
    found = count(recent(settings or load_settings(), last_days), verify=verify)
    create_table_artifact(table_of(found), key="census", description=f"Census of {found.datetime}")
    create_markdown_artifact(sentence_of(found), key="census-summary", description="What the census found")
    if not found.complete:
        missing = [row.scene_id for row in _open_rows(found)]
        emit(
            EventName.CENSUS_INCOMPLETE,
            f"collection.{found.collection}",
            {"datetime": found.datetime, "scenes": len(missing), "first": missing[:_NAMED]},
        )
        if strict:
            raise CensusIncomplete(sentence_of(found))
    return found


def table_of(found: Census) -> list[dict[str, Any]]:
    """Return the rows of the artifact: what is missing, failed or broken first, then by date."""
    rows = sorted(found.scenes, key=lambda row: (row.standing not in INCOMPLETE, row.datetime, row.scene_id))
    return [asdict(row) for row in rows[:_ROWS]]


def sentence_of(found: Census) -> str:
    """Return what was found as one or two sentences for people."""
    counts = ", ".join(f"{number} {standing}" for standing, number in found.counts.items() if number)
    told = f"Of {len(found.scenes)} scenes of {found.collection} in {found.datetime}: {counts or 'none'}."
    if found.complete:
        return told
    first = next(iter(_open_rows(found)))
    return f"{told} The first, {first.scene_id}, is {first.standing}: {first.reason}; `unveil redrive` tries again."


def _open_rows(found: Census) -> list[CensusRow]:
    return [row for row in found.scenes if row.standing in INCOMPLETE]
