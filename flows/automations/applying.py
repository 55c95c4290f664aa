"""Bringing the automations of a Prefect server to what they should be, as often as one likes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum, unique
from typing import TYPE_CHECKING
from uuid import UUID

import httpx

from flows.automations.definitions import DEPLOYMENTS, PREFIX, Notifier, Patience, automations
from flows.errors import InvalidSettings, ServiceUnavailable
from flows.services.prefect_server import configured_api_url, without_credentials

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.events.schemas.automations import Automation, AutomationCore

#: A saved block that tells people, as TYPE/NAME, e.g. `slack-webhook/ops`.
NOTIFY_BLOCK = "UNVEIL_NOTIFY_BLOCK"
#: The URL of a webhook; it is kept at the server, encrypted, as the block `webhook/unveil-notify`.
NOTIFY_WEBHOOK = "UNVEIL_NOTIFY_WEBHOOK"
_OWN_BLOCK = "unveil-notify"


@unique
class Change(StrEnum):
    """What becomes, or would become, of an automation."""

    CREATE = "create"
    UPDATE = "update"
    REMOVE = "remove"
    NONE = "unchanged"


@dataclass(frozen=True, slots=True)
class Line:
    """One automation."""

    name: str
    change: Change
    #: False where somebody has paused it; that is left so.
    enabled: bool


def apply_automations(patience: Patience, *, dry_run: bool = False) -> tuple[Line, ...]:
    """Create, update and remove automations whose names begin with `unveil: `; return what was, or would be, done.

    Where people are told is taken from the environment: `UNVEIL_NOTIFY_BLOCK` or `UNVEIL_NOTIFY_WEBHOOK`.

    Raises:
        InvalidSettings: no Prefect server is configured, a deployment is missing, or the block is unknown.
        ServiceUnavailable: the server does not answer.
    """
    url = configured_api_url()
    if url is None:
        raise InvalidSettings("No Prefect server is configured: set PREFECT_API_URL, e.g. http://127.0.0.1:4200/api.")
    from prefect.client.orchestration import get_client

    try:
        with get_client(sync_client=True) as client:
            wanted = automations(patience, _deployments(client), _notifier(client, dry_run))
            return tuple(_settle(client, wanted, dry_run))
    except httpx.HTTPError as error:
        raise ServiceUnavailable(
            f"The Prefect API {without_credentials(url)} does not answer ({type(error).__name__}): see that it runs."
        ) from error


def _settle(client: SyncPrefectClient, wanted: tuple[AutomationCore, ...], dry_run: bool) -> Iterator[Line]:
    present = {found.name: found for found in client.read_automations() if found.name.startswith(PREFIX)}
    for automation in wanted:
        yield _bring(client, automation, present.pop(automation.name, None), dry_run)
    for left_over in present.values():
        if not dry_run:
            client.delete_automation(left_over.id)
        yield Line(left_over.name, Change.REMOVE, left_over.enabled)


def _bring(client: SyncPrefectClient, wanted: AutomationCore, found: Automation | None, dry_run: bool) -> Line:
    if found is None:
        if not dry_run:
            client.create_automation(wanted)
        return Line(wanted.name, Change.CREATE, wanted.enabled)
    wanted = wanted.model_copy(update={"enabled": found.enabled})
    if _same(wanted, found):
        return Line(wanted.name, Change.NONE, found.enabled)
    if not dry_run:
        client.update_automation(found.id, wanted)
    return Line(wanted.name, Change.UPDATE, found.enabled)


def _same(wanted: AutomationCore, found: Automation) -> bool:
    return all(getattr(wanted, name) == getattr(found, name) for name in ("description", "trigger", "actions"))


def _deployments(client: SyncPrefectClient) -> dict[str, UUID]:
    from prefect.exceptions import ObjectNotFound

    found = {}
    for name in DEPLOYMENTS:
        try:
            found[name] = client.read_deployment_by_name(name).id
        except ObjectNotFound as error:
            raise InvalidSettings(
                f"Deployment {name} is not at the Prefect server: `prefect deploy --all` first."
            ) from error
    return found


def _notifier(client: SyncPrefectClient, dry_run: bool) -> Notifier | None:
    """Return who is told, by the environment."""
    block, url = os.environ.get(NOTIFY_BLOCK), os.environ.get(NOTIFY_WEBHOOK)
    if block:
        slug, _, name = block.partition("/")
    elif url:
        slug, name = "webhook", _OWN_BLOCK
        if dry_run:
            return Notifier(UUID(int=0), webhook=True)
        from prefect.blocks.webhook import Webhook
        from pydantic import SecretStr

        Webhook(url=SecretStr(url)).save(name, overwrite=True)
    else:
        return None
    return Notifier(_block_id(client, slug, name), slug == "webhook")


def _block_id(client: SyncPrefectClient, slug: str, name: str) -> UUID:
    from prefect.exceptions import ObjectNotFound

    try:
        return UUID(str(client.read_block_document_by_name(name, slug).id))
    except ObjectNotFound as error:
        raise InvalidSettings(
            f"{NOTIFY_BLOCK} names the block {slug}/{name}, which the Prefect server does not have; save it there, or "
            "correct the name (TYPE/NAME, as `prefect block ls` shows)."
        ) from error
