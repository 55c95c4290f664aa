"""What the automations wait for and do; that a server takes them is tested with a server."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
import yaml
from prefect.events.actions import CallWebhook, ChangeFlowRunState, SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.deployment_triggers import DeploymentTriggerTypes
from pydantic import TypeAdapter

from flows.ops.automations import PREFIX, Notifier, automations
from flows.progress import EventName
from tests.command import ROOT


def named(notifier: Notifier | None = None) -> dict[str, AutomationCore]:
    return {a.name.removeprefix(PREFIX): a for a in automations(notifier, silence_s=100)}


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


def test_deployments_run_after_events_by_their_own_triggers() -> None:
    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text("utf-8"))["deployments"]
    found = {each["name"]: _load_trigger(each["triggers"][0]) for each in deployments if "triggers" in each}
    assert {name: trigger.expect for name, trigger in found.items()} == {
        "retrain": {EventName.DRIFT_ALARM},
        "clear-scenes": {EventName.MODEL_PROMOTED},
        "redrive": {"prefect.flow-run.Crashed"},
    }
    related = [each.root["prefect.resource.name"] for each in found["redrive"].match_related[1:]]
    assert related == [["clear-scenes"]] or related == ["clear-scenes"], "a redrive is not redriven"
    assert found["redrive"].schedule_after.total_seconds() == 120


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
