"""What the automations wait for and do; that a server takes them is tested with a server."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest
from prefect.events.actions import CallWebhook, ChangeFlowRunState, RunDeployment, SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

from flows.ops.automations import DEPLOYMENTS, PREFIX, REDRIVE, RETRAIN, Notifier, Waits, automations

IDS = {name: uuid4() for name in DEPLOYMENTS}


def named(notifier: Notifier | None = None) -> dict[str, AutomationCore]:
    return {a.name.removeprefix(PREFIX): a for a in automations(Waits(silence_s=100), IDS, notifier)}


def triggered(automation: AutomationCore) -> EventTrigger:
    assert isinstance(automation.trigger, EventTrigger)
    return automation.trigger


def test_silence_crashes_a_run_unless_it_has_ended() -> None:
    automation = named()["runs without a heartbeat are crashed"]
    trigger, (action,) = triggered(automation), automation.actions
    assert trigger.posture is Posture.Proactive and trigger.within.total_seconds() == 100
    assert trigger.for_each == {"prefect.resource.id"} and trigger.after < trigger.expect
    assert {f"prefect.flow-run.{end}" for end in ("Completed", "Failed", "Cancelled", "Crashed")} < trigger.expect
    assert isinstance(action, ChangeFlowRunState) and action.state.value == "CRASHED"


def test_a_redrive_is_not_redriven() -> None:
    automation = named()["a crash is redriven"]
    (action,) = automation.actions
    assert isinstance(action, RunDeployment) and action.deployment_id == IDS[REDRIVE]
    related = triggered(automation).match_related
    assert isinstance(related, list) and related[1].root["prefect.resource.name"] == "clear-scenes"


def test_alarms_retrain() -> None:
    automation = named()["drift retrains"]
    (action,) = automation.actions
    assert triggered(automation).expect == {"unveil.drift.alarm"}
    assert isinstance(action, RunDeployment) and action.deployment_id == IDS[RETRAIN]


@pytest.mark.parametrize(("webhook", "kind"), [(True, CallWebhook), (False, SendNotification)])
def test_people_are_told_where_a_block_is_named(webhook: bool, kind: type) -> None:
    block = UUID(int=7)
    told = named(Notifier(block, webhook))
    added = told.keys() - named().keys()
    assert added == {"failures are told", "alarms are told"}
    actions = [told[name].actions[0] for name in added]
    assert all(isinstance(action, kind) and action.block_document_id == block for action in actions)
