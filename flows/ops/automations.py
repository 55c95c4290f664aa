"""Automations of the Prefect server: definitions, and applying them.

What starts a deployment after an event is a trigger in prefect.yaml; here is what a trigger cannot do.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum, unique
from typing import TYPE_CHECKING
from uuid import UUID

import httpx
from prefect.client.schemas.objects import StateType
from prefect.events.actions import (
    ActionTypes,
    CallWebhook,
    CancelFlowRun,
    ChangeFlowRunState,
    SendNotification,
)
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

from flows.errors import InvalidSettings, ServiceUnavailable
from flows.progress import EventName
from flows.services.prefect_server import configured_api_url
from stac.io.secrets import without_secret

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.events.schemas.automations import Automation, AutomationCore


#: Every automation of ours begins with that; others are never touched.
PREFIX = "unveil: "

_Labels = dict[str, str | list[str]]

_FLOW_RUN = "prefect.flow-run."
_ENDS = frozenset(f"{_FLOW_RUN}{name}" for name in ("Completed", "Failed", "TimedOut", "Crashed", "Cancelled"))
_BAD_ENDS = frozenset(f"{_FLOW_RUN}{name}" for name in ("Failed", "TimedOut", "Crashed"))
_HEARTBEAT = f"{_FLOW_RUN}heartbeat"
_DIED = "A worker or a machine that died cannot say so."
#: Runs of our deployments carry this tag.
_OURS: _Labels = {"prefect.resource.role": "tag", "prefect.resource.id": "prefect.tag.unveil"}


#: A run without a sign of life for so long is dead, seconds: three heartbeats of Prefect's 180 s.
SILENCE_S = 540.0
#: A run that was handed to a worker must begin within this time, and no run takes longer than that, seconds.
_PENDING_S, _LONGEST_S = 900.0, 12 * 3600.0
#: A saved block that notifies people, as TYPE/NAME, e.g. `slack-webhook/ops`.
NOTIFY_BLOCK = "UNVEIL_NOTIFY_BLOCK"
#: The URL of a webhook; it is kept at the server, encrypted, as the block `webhook/unveil-notify`.
NOTIFY_WEBHOOK = "UNVEIL_NOTIFY_WEBHOOK"
_OWN_BLOCK = "unveil-notify"


@dataclass(frozen=True, slots=True)
class Notifier:
    """A block at the Prefect server that reaches people; its address is the server's secret."""

    block_id: UUID
    #: It is a plain webhook, not one of the notification services.
    webhook: bool

    def message(self, subject: str, body: str) -> ActionTypes:
        """Return the action that sends a message."""
        if self.webhook:
            # One JSON document, as chat services and alert managers take it.
            payload = '{"text": {% set text %}' + body + "{% endset %}{{ text | tojson }}}"
            return CallWebhook(block_document_id=self.block_id, payload=payload)
        return SendNotification(block_document_id=self.block_id, subject=subject, body=body)


def automations(notifier: Notifier | None, silence_s: float = SILENCE_S) -> tuple[AutomationCore, ...]:
    """Return all automations."""
    begun = {f"{_FLOW_RUN}{name}" for name in ("Running", "Scheduled", "AwaitingConcurrencySlot")}
    found = [
        _silence("runs without a heartbeat are crashed", _DIED, {_HEARTBEAT}, {_HEARTBEAT}, silence_s),
        _silence("runs that never begin are crashed", _DIED, {f"{_FLOW_RUN}Pending"}, begun, _PENDING_S),
        _silence(
            "overdue runs are cancelled",
            f"No run takes longer than {_LONGEST_S / 3600:g} hours.",
            {f"{_FLOW_RUN}Running"},
            set(),
            _LONGEST_S,
            CancelFlowRun(),
        ),
    ]
    if notifier is not None:
        run = "{{ flow.name }} run {{ flow_run.name }} is {{ flow_run.state.name }}: {{ flow_run.state.message }}"
        event = "{{ event.event }} about {{ event.resource.id }}: {{ event.payload | tojson }}"
        failed, alarm = notifier.message("Unveil: a run failed", run), notifier.message("Unveil: an alarm", event)
        happened = {EventName.CENSUS_INCOMPLETE, EventName.DRIFT_ALARM, EventName.MODEL_PROMOTED}
        found += [
            _reaction("failures are notified", _BAD_ENDS, failed, [_OURS]),
            _reaction("alarms are notified", happened, alarm),
        ]
    return tuple(found)


def _silence(
    name: str, why: str, after: set[str], expect: set[str], within_s: float, action: ActionTypes | None = None
) -> AutomationCore:
    """Return what acts on a run of ours after which nothing more was heard; it is crashed by default."""
    trigger = EventTrigger(
        after=after,
        expect=expect | _ENDS,
        match={"prefect.resource.id": f"{_FLOW_RUN}*"},
        match_related=_OURS,
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        threshold=1,
        within=timedelta(seconds=within_s),
    )
    crash = ChangeFlowRunState(
        name=None,
        state=StateType.CRASHED,
        force=False,
        message=f"No heartbeat of this run for {within_s:.0f} s; marked as crashed.",
    )
    return AutomationCore(name=PREFIX + name, description=why, trigger=trigger, actions=[action or crash])


def _reaction(
    name: str, expect: AbstractSet[str], action: ActionTypes, related: Sequence[_Labels] = ()
) -> AutomationCore:
    """Return what acts on each of some events."""
    trigger = EventTrigger(
        expect={str(event) for event in expect},
        match_related=list(related),
        posture=Posture.Reactive,
        threshold=1,
    )
    return AutomationCore(name=PREFIX + name, trigger=trigger, actions=[action])


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
    #: False where an operator has paused it; that is left so.
    enabled: bool


def apply_automations(silence_s: float = SILENCE_S, *, dry_run: bool = False) -> tuple[Line, ...]:
    """Create, update and remove automations whose names begin with `unveil: `; return what was, or would be, done.

    Where people are notified is taken from the environment: `UNVEIL_NOTIFY_BLOCK` or `UNVEIL_NOTIFY_WEBHOOK`.

    Args:
        silence_s: as for `automations`.
        dry_run: change nothing.

    Raises:
        InvalidSettings: no Prefect server is configured, or the block is unknown.
        ServiceUnavailable: the server does not answer.
    """
    url = configured_api_url()
    if url is None:
        raise InvalidSettings("No Prefect server is configured: set PREFECT_API_URL, e.g. http://127.0.0.1:4200/api.")
    from prefect.client.orchestration import get_client

    try:
        with get_client(sync_client=True) as client:
            wanted = automations(_notifier(client, dry_run), silence_s)
            return tuple(_applied(client, wanted, dry_run))
    except httpx.HTTPError as error:
        raise ServiceUnavailable(
            f"The Prefect API {without_secret(url)} does not answer ({type(error).__name__}): see that it runs."
        ) from error


def _applied(client: SyncPrefectClient, wanted: tuple[AutomationCore, ...], dry_run: bool) -> Iterator[Line]:
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


def _notifier(client: SyncPrefectClient, dry_run: bool) -> Notifier | None:
    """Return what is notified, by the environment."""
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
