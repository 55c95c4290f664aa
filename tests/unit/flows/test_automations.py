"""What the automations wait for and do; that a server takes them is tested with a server."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest
import yaml
from prefect.events.actions import CallWebhook, ChangeFlowRunState, RunDeployment, SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.deployment_triggers import DeploymentTriggerTypes
from pydantic import TypeAdapter

from flows.ops.automations import PREFIX, Notifier, automations
from flows.progress import EventName
from tests.command import ROOT

REDRIVE = uuid4()


def named(notifier: Notifier | None = None) -> dict[str, AutomationCore]:
    return {a.name.removeprefix(PREFIX): a for a in automations(REDRIVE, notifier, silence_s=100)}


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
    assert isinstance(action, RunDeployment) and action.deployment_id == REDRIVE
    related = triggered(automation).match_related
    assert isinstance(related, list) and related[1].root["prefect.resource.name"] == "clear-scenes"


def test_alarms_retrain_and_a_promotion_makes_mosaics_by_triggers_of_the_deployments() -> None:
    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text("utf-8"))["deployments"]
    events = {
        deployment["name"]: [_load_trigger(trigger).expect for trigger in deployment["triggers"]]
        for deployment in deployments
        if "triggers" in deployment
    }
    assert events == {"retrain": [{EventName.DRIFT_ALARM}], "clear-scenes": [{EventName.MODEL_PROMOTED}]}


def _load_trigger(trigger: dict[str, Any]) -> Any:
    found = TypeAdapter(DeploymentTriggerTypes).validate_python(trigger)
    assert found.posture is Posture.Reactive
    return found


@pytest.mark.parametrize(("webhook", "kind"), [(True, CallWebhook), (False, SendNotification)])
def test_people_are_reported_where_a_block_is_named(webhook: bool, kind: type) -> None:
    block = UUID(int=7)
    told = named(Notifier(block, webhook))
    added = told.keys() - named().keys()
    assert added == {"failures are notified", "alarms are notified"}
    actions = [told[name].actions[0] for name in added]
    assert all(isinstance(action, kind) and action.block_document_id == block for action in actions)
