"""The registry from empty to a rollback: every step by the real command or a real Prefect worker, on the sample.

    python -m tests.load.registry_story --out docs/results

Trainings take one step per stage and samples are few: the story is about versions, gates and bytes, not about pictures.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer

from flows.models.registry import Registry
from flows.models.version import ListedVersion
from flows.services.login import Login, read_login
from tests.chaos.evidence import files_of, items_of
from tests.command import ROOT, TINY_BBOX, TINY_SETTINGS, Outcome, environment, unveil
from tests.prefect_service import PREFECT, end, spawn

#: Wide enough for one step of training and one sample, too narrow for the spoilt weights.
GATES = {
    "least_gain_db": -0.5,
    "least_trivial_gain_db": -20,
    "least_psnr_db": 15,
    "least_blocks": 3,
    "least_coverage": 0.5,
    "most_coverage": 1,
    "most_time_ratio": 5,
    "least_shadow_scenes": 1,
    "most_shadow_seams": 2,
    "most_shadow_width": 3,
}
_WINDOW, _DEADLINE_S = 192, 1500


@dataclass(frozen=True, slots=True)
class Step:
    """One line of the story."""

    what: str
    #: Version by alias, afterwards.
    aliases: Mapping[str, str]
    outcome: str
    seconds: float


@dataclass(slots=True)
class Story:
    """What happened so far, and where."""

    work: Path
    api: str
    login: Login
    steps: list[Step] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    @property
    def out(self) -> Path:
        """The catalog that all but the last run write."""
        return self.work / "catalog"

    @property
    def environment(self) -> dict[str, str]:
        """Of every process."""
        return TINY_SETTINGS | {"PREFECT_API_URL": self.api, "PREFECT_API_AUTH_STRING": self.login.auth_string}

    @property
    def server(self) -> httpx.Client:
        """Prefect's API."""
        return httpx.Client(base_url=self.api, auth=(self.login.user, self.login.password), timeout=60)

    def command(self, *arguments: str | Path) -> Outcome:
        """Run `unveil`."""
        return unveil(*arguments, "--json", home=self.work / "home", extra=self.environment, timeout=_DEADLINE_S)

    def versions(self) -> list[ListedVersion]:
        """Return what the registry holds."""
        return Registry(self.out / ".unveil").versions()

    def aliases(self) -> dict[str, str]:
        """Return version by alias."""
        return {alias: version.version for version in self.versions() for alias in version.aliases}

    @contextlib.contextmanager
    def step(self, what: str) -> Iterator[list[str]]:
        """Time a step; yields a list for its outcome in words."""
        began, outcome = time.monotonic(), list[str]()
        yield outcome
        seconds = time.monotonic() - began
        self.steps.append(Step(what, self.aliases(), "; ".join(outcome), seconds))
        sys.stderr.write(f"{seconds:6.0f} s  {what}: {'; '.join(outcome)}\n")

    def expect(self, holds: bool, what: str) -> None:
        """Note what did not hold."""
        if not holds:
            self.broken.append(what)


def mosaics(story: Story, out: Path, outcome: list[str]) -> str:
    """Restore the corner of the sample into a catalog; return the version that its new items carry."""
    before = set(items_of(out))
    done = story.command("run", "--bbox", TINY_BBOX, "--out", out, "--state-dir", story.out / ".unveil")
    story.expect(done.status == 0, f"run ended with {done.status}: {done.sentence}")
    new = [path for path in items_of(out) if path not in before]
    versions = {version_of(path) for path in new}
    outcome.append(f"{len(new)} new items, made by version {', '.join(sorted(versions)) or 'none'}")
    return versions.pop() if len(versions) == 1 else ""


def version_of(item: Path) -> str:
    """Return the version of the model that an item names."""
    return str(json.loads(item.read_text("utf-8"))["properties"]["unveil:model"]["version"])


def rasters_of(out: Path, version: str) -> dict[str, str]:
    """Return the checksums of the files of all items that a version made."""
    names = {f"{path.parent.parent.name}/{path.stem}" for path in items_of(out) if version_of(path) == version}
    return {name: digest for name, digest in files_of(out).items() if name.rpartition("/")[0] in names}


@contextlib.contextmanager
def worker(story: Story) -> Iterator[str]:
    """Deploy the flow, keep a worker running, and yield the id of the deployment."""
    environ = environment(story.work / "home", story.environment) | {"PREFECT_WORKER_QUERY_SECONDS": "1"}
    deployed = ("deploy", "flows/retrain.py:retrain", "--name", "story", "--pool", "story")
    for arguments in (("work-pool", "create", "story", "--type", "process"), deployed):
        subprocess.run(
            [*PREFECT, "--no-prompt", *arguments], cwd=ROOT, env=environ, check=True, capture_output=True, timeout=300
        )
    found = story.server.get("/deployments/name/retrain/story").raise_for_status().json()["id"]
    process = spawn(
        ("worker", "start", "--pool", "story", "--install-policy", "never"), environ, story.work / "worker.log"
    )
    try:
        yield found
    finally:
        end(process)


def retraining(story: Story, deployment: str, until: str, outcome: list[str]) -> None:
    """Let the worker complete a scheduled retraining on the scenes up to a day."""
    settings = {
        "out": str(story.out), "datetime": f"2023-08-10/{until}", "promotion": "automatic", "effort": 0.001,
        "calibration_cases": 1, "baseline_dates": 0, "contest_cases": 1, "contest_window": _WINDOW,
        "shadow_scenes": 1, "gates": GATES,
    }  # fmt: skip
    body = {"parameters": {"settings": settings}, "state": {"type": "SCHEDULED"}}
    made = story.server.post(f"/deployments/{deployment}/create_flow_run", json=body).raise_for_status().json()
    state, deadline = {"type": "SCHEDULED"}, time.monotonic() + _DEADLINE_S
    while state["type"] not in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED") and time.monotonic() < deadline:
        time.sleep(1)
        state = story.server.get(f"/flow_runs/{made['id']}").raise_for_status().json()["state"]
    story.expect(
        state["type"] == "COMPLETED", f"retraining up to {until} ended as {state['type']}: {state.get('message')}"
    )
    newest = story.versions()[-1]
    outcome.append(f"version {newest.version}, training set {newest.tags.get('unveil_training_set', 'none')}")
    outcome.append(gates_of(json.loads(newest.tags.get("unveil_gates", "null"))))


def gates_of(table: Mapping[str, Any] | None) -> str:
    """Return a gate table in words."""
    from flows.models.evaluation_report import summary

    return "never on trial" if table is None else f"gates: {summary(table)}"


def spoil(weights: Path) -> Path:
    """Write the shipped weights with a reference that is one deviation off; return the path."""
    import torch

    from de_model import checkpoint

    model = checkpoint.load(checkpoint.shipped_weights())
    assert model.scene is not None
    with torch.no_grad():
        model.scene.reference.net.head.bias += 1
    checkpoint.save(model, weights)
    return weights


def spoilt(story: Story, outcome: list[str]) -> None:
    """Register worse weights and ask for their promotion."""
    registered = story.command("register", spoil(story.work / "spoilt.safetensors"), "--out", story.out)
    config = story.work / "retrain.yaml"
    config.write_text(json.dumps({"contest_cases": 1, "contest_window": _WINDOW, "shadow_scenes": 1, "gates": GATES}))
    judged = story.command("promote", "--config", config, "--out", story.out)
    story.expect(judged.status == 1, f"the spoilt weights were not refused: status {judged.status}, {judged.sentence}")
    outcome.append(f"version {registered.document['version']} refused, status {judged.status}")
    outcome.append(gates_of(judged.document["gates"]))


def told(story: Story) -> None:
    """Go through all steps."""
    with story.step("`unveil models` on an empty registry") as outcome:
        listed = story.command("models", "--out", story.out).document
        outcome.append(f"{len(listed)} version: the shipped weights are registered")
    with story.step("`unveil run`") as outcome:
        story.expect(mosaics(story, story.out, outcome) == "1", "the first mosaics are not of version 1")
    with worker(story) as deployment:
        with story.step("retraining by the worker, scenes of 10 to 15 August") as outcome:
            retraining(story, deployment, "2023-08-15", outcome)
        with story.step("`unveil run`") as outcome:
            made = mosaics(story, story.out, outcome)
            story.expect(made == story.steps[-1].aliases["champion"], "the mosaics are not of the new champion")
        with story.step("`unveil register` and `unveil promote` of spoilt weights") as outcome:
            spoilt(story, outcome)
        with story.step("retraining by the worker, scenes of 10 to 20 August") as outcome:
            retraining(story, deployment, "2023-08-20", outcome)
    with story.step("`unveil rollback`") as outcome:
        back = story.command("rollback", "--out", story.out)
        story.expect(back.status == 0, f"rollback ended with {back.status}: {back.sentence}")
        outcome.append(f"version {back.document['champion']} is the champion again")
    with story.step("`unveil run` into an empty catalog") as outcome:
        other = story.work / "again"
        version = mosaics(story, other, outcome)
        before, after = rasters_of(story.out, version), rasters_of(other, version)
        same = before == after and bool(after)
        story.expect(same, "the mosaics after the rollback differ from those of the same version before")
        outcome.append(f"{len(after)} files {'byte-identical to' if same else 'different from'} those made before")


def page_of(story: Story, command: str) -> str:
    """Return the page of results."""
    from benchmarks.machine import machine

    rows = [
        f"| {step.what} | {', '.join(f'{alias} {number}' for alias, number in sorted(step.aliases.items()))} "
        f"| {step.outcome} | {step.seconds:.0f} |"
        for step in story.steps
    ]
    verdict = (
        "Everything was as expected." if not story.broken else "\n".join(f"- wrong: {line}" for line in story.broken)
    )
    gates = ", ".join(f"{name} {value:g}" for name, value in GATES.items())
    return "\n".join(
        [
            "# From an empty registry to a rollback",
            "",
            f"Command: `{command}`; {time.strftime('%Y-%m-%d', time.gmtime())}; {machine()}, other work beside it.",
            "Every step is the real command, or a retraining that a real Prefect worker picked up. Trainings take one",
            "step per stage and samples are few, so the gates are wide; the story is about versions and bytes. Gates:",
            f"{gates}.",
            "",
            "| step | aliases afterwards | outcome | seconds |",
            "|---|---|---|---|",
            *rows,
            "",
            verdict,
            "",
        ]
    )


def main(
    out: Annotated[Path | None, typer.Option("--out", help="Folder of registry.md; printed when left out.")] = None,
) -> None:
    """Tell the story of a registry and check it."""
    from flows.services.prefect_server import prefect_api

    with tempfile.TemporaryDirectory(prefix="unveil-story-") as folder, prefect_api(Path(folder) / "server") as api:
        story = Story(Path(folder), api, read_login(Path(folder) / "server" / "prefect"))
        try:
            told(story)
        except Exception:
            log = Path(folder) / "worker.log"
            sys.stderr.write(log.read_text("utf-8", "replace")[-4000:] if log.is_file() else "")
            raise
    page = page_of(story, "python -m tests.load.registry_story --out docs/results")
    if out is None:
        sys.stdout.write(page)
    else:
        (out / "registry.md").write_text(page, "utf-8")
    raise SystemExit(1 if story.broken else 0)


if __name__ == "__main__":
    os.environ.setdefault("DO_NOT_TRACK", "1")
    typer.run(main)
