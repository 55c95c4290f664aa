"""Champion, challenger and previous in a real MLflow registry: contests, gates, kills and turns."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest
import torch
from command import ROOT, environment, unveil

from de_model import checkpoint
from de_model.inference.engine import Sampling
from de_model.metrics.bootstrap import Interval
from flows.errors import InvalidSettings, UnknownModel
from flows.models.contest import Contest, Contestant, cases_on, compare
from flows.models.gates import Gates, judge, load_gates
from flows.models.promotion import CHALLENGER, PREVIOUS, nominate, promote, rollback
from flows.models.registry import CHAMPION, MODEL_NAME, Registry
from flows.stacks import SceneSet, stacks_of

pytestmark = pytest.mark.integration

ONE_STEP = Sampling(samples=1, steps=1, tile=128, overlap=8)


@pytest.fixture(scope="module")
def worse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped weights, spoilt: all networks hear a little noise."""
    torch.manual_seed(0)
    model = checkpoint.load(checkpoint.shipped_weights())
    with torch.no_grad():
        for parameter in model.reference.parameters():
            parameter += 0.2 * parameter.std(correction=0) * torch.randn_like(parameter)
    path = tmp_path_factory.mktemp("worse") / "worse.safetensors"
    checkpoint.save(model, path)
    return path


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory, worse: Path) -> Path:
    folder = tmp_path_factory.mktemp("registry") / "state"
    registry = Registry(folder)
    registry.ensure_shipped()
    nominate(registry, registry.register(worse))
    return folder


@pytest.fixture
def registry(state: Path) -> Iterator[Registry]:
    """The registry with version 1 as champion and version 2 as challenger."""
    found = Registry(state)
    yield found
    found.point(MODEL_NAME, CHAMPION, "1")
    found.point(MODEL_NAME, CHALLENGER, "2")
    found.unpoint(MODEL_NAME, PREVIOUS)


@pytest.mark.timeout(240)
def test_a_worse_challenger_is_refused_by_what_it_restored(worse: Path) -> None:
    (stack,) = stacks_of(SceneSet(("MGRS-33TWL",)))
    part = stack.window(slice(100, 420), slice(300, 620))
    days = [date(2023, 8, 18)], [date(2023, 8, 15)]
    cases = list(cases_on([part], *days))
    contest = compare(checkpoint.shipped_weights(), worse, cases, ONE_STEP)
    assert contest.gain.images >= 10 and contest.gain.high < 0
    verdict = judge(contest, Gates(least_blocks=5, most_time_ratio=10))
    assert not verdict.passed and "PSNR above the champion's is -" in verdict.reasons[0]
    back = compare(worse, checkpoint.shipped_weights(), cases, ONE_STEP)
    assert back.gain.mean == pytest.approx(-contest.gain.mean)
    assert judge(back, Gates(least_blocks=5, most_time_ratio=10)).passed


def contest_of(**changes: float) -> Contest:
    values = {"mean": 0.1, "low": 0.05, "high": 0.2, "images": 50, "psnr": 27.0, "seconds": 10.0, "size": 5e6} | changes
    gain = Interval(values["mean"], values["low"], values["high"], int(values["images"]))
    return Contest(
        Contestant("a" * 64, 5_000_000, 26.9, 10.0),
        Contestant("b" * 64, int(values["size"]), values["psnr"], values["seconds"]),
        gain,
    )


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"low": -0.03}, "lower end"),
        ({"images": 19}, "Only 19 blocks"),
        ({"psnr": 19.9}, "less than 20"),
        ({"seconds": 16.0}, "1.60 times"),
        ({"size": 41e6}, "41 MB"),
    ],
)
def test_every_gate_can_refuse(changes: dict[str, float], says: str) -> None:
    assert judge(contest_of(), Gates()).passed
    (reason,) = judge(contest_of(**changes), Gates()).reasons
    assert says in reason


def test_gates_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "gates.yaml"
    path.write_text("least_gain_db: 0.5\n")
    assert load_gates(path).least_gain_db == 0.5 and load_gates(None) == Gates()
    for text, says in (
        ("least_gain: 1\n", "unknown"),
        ("- 1\n", "unknown|no gates"),
        ("least_gain_db: much\n", "no gates"),
    ):
        path.write_text(text)
        with pytest.raises(InvalidSettings, match=says):
            load_gates(path)


def test_promotion_and_rollback_move_aliases_and_nothing_else(registry: Registry) -> None:
    before = registry.resolve(f"models:/{MODEL_NAME}@{CHAMPION}")
    challenger = registry.resolve(f"models:/{MODEL_NAME}@{CHALLENGER}")
    promote(registry, challenger, "a test")
    assert registry.aliases(MODEL_NAME) == {CHAMPION: "2", PREVIOUS: "1"}
    listed = {v.version: v for v in registry.versions()}
    assert listed["2"].aliases == (CHAMPION,) and listed["2"].tags["unveil_promoted_why"] == "a test"
    with pytest.raises(InvalidSettings, match="already"):
        promote(registry, challenger, "again")
    assert rollback(registry, MODEL_NAME).champion == "1"
    assert registry.resolve(f"models:/{MODEL_NAME}@{CHAMPION}") == before
    assert registry.aliases(MODEL_NAME)[PREVIOUS] == "2"


def test_there_is_nothing_to_go_back_to_at_first(registry: Registry) -> None:
    with pytest.raises(UnknownModel, match="no previous champion"):
        rollback(registry, MODEL_NAME)


PROMOTER = """
import sys, itertools
from pathlib import Path
from flows.models.promotion import promote, rollback
from flows.models.registry import Registry
registry = Registry(Path(sys.argv[1]))
version = registry.resolve("models:/unveil-de/2")
print("ready", flush=True)
for _ in range(int(sys.argv[2])):
    promote(registry, version, "in turn")
    rollback(registry, "unveil-de")
"""


def promoter(state: Path, turns: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROMOTER, str(state), str(turns)]
    environ = environment(state.parent / "home")
    return subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_killed_promotion_leaves_a_champion(registry: Registry, state: Path) -> None:
    for delay in (0.0, 0.013, 0.05):
        process = promoter(state, 1000)
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        time.sleep(delay)
        process.kill()
        process.communicate()
        aliases = registry.aliases(MODEL_NAME)
        assert aliases[CHAMPION] in ("1", "2")
        assert registry.resolve(f"models:/{MODEL_NAME}@{CHAMPION}").version == aliases[CHAMPION]
        registry.point(MODEL_NAME, CHAMPION, "1")


def test_the_command_refuses_and_promotes(registry: Registry, state: Path, tmp_path: Path) -> None:
    where = ("--state-dir", state, "--json")
    listed = unveil("models", *where, home=tmp_path).document
    assert [(v["version"], v["aliases"]) for v in listed] == [("1", [CHAMPION]), ("2", [CHALLENGER])]
    forced = unveil("promote", "--force", *where, home=tmp_path)
    assert forced.status == 0 and forced.document["promotion"] == {
        "name": MODEL_NAME, "champion": "2", "previous": "1",
    }  # fmt: skip
    assert unveil("rollback", *where, home=tmp_path).document["champion"] == "1"
    missing = unveil("promote", "7", *where, home=tmp_path)
    assert missing.status == 2 and "no version 7" in missing.sentence
