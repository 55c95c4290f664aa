"""Champion, challenger and previous in a real MLflow registry: comparisons, gates, shadow runs, kills and turns."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from de_model import checkpoint
from de_model.card import ModelCard
from de_model.errors import InvalidCheckpoint
from de_model.inference.sampling import Sampling
from de_model.metrics.bootstrap import Interval
from de_model.validation import UNVALIDATED, Figures, Filler, KindRecord, ValidationRecord, validation_path
from flows.errors import ChampionChanged, InvalidSettings, UnknownModel
from flows.models.comparison import compare_versions
from flows.models.evaluation import evaluate, real_cases
from flows.models.gates import Comparison, Gates, compared, judge
from flows.models.promotion import CHALLENGER, PREVIOUS, promote, rollback, set_challenger
from flows.models.registry import CHAMPION, MODEL_NAME, Registry, resolve
from flows.models.shadow import Measured, Shadow, ShadowScene, shadow_run
from flows.planning.search import SceneSet, stacks_of
from flows.promote import PromoteSummary, as_markdown
from flows.settings import RunSettings
from flows.settings.loading import load_settings
from flows.settings.restoring import RestorationOptions
from stac.catalog.publish import DEFAULT_COLLECTION
from tests.command import ROOT, Run, environment, unveil

pytestmark = pytest.mark.integration

ONE_STEP = Sampling(samples=1, steps=1, tile=128, overlap=8)


@pytest.fixture(scope="module")
def worse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped weights, spoilt: all that the reference says is one deviation off."""
    model = checkpoint.load(checkpoint.shipped_weights())
    assert model.scene is not None
    with torch.no_grad():
        model.scene.reference.net.head.bias += 1
    path = tmp_path_factory.mktemp("worse") / "worse.safetensors"
    checkpoint.save(model, path)
    return path


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory, worse: Path) -> Path:
    folder = tmp_path_factory.mktemp("registry") / "state"
    registry = Registry(folder)
    registry.ensure_shipped()
    set_challenger(registry, registry.register(worse))
    return folder


def move(registry: Registry, alias: str, version: str) -> None:
    registry._client.set_registered_model_alias(MODEL_NAME, alias, version)


@pytest.fixture
def registry(state: Path) -> Iterator[Registry]:
    """The registry with version 1 as champion and version 2 as challenger."""
    found = Registry(state)
    yield found
    move(found, CHAMPION, "1")
    move(found, CHALLENGER, "2")
    found._client.delete_registered_model_alias(MODEL_NAME, PREVIOUS)


@pytest.mark.timeout(300)
def test_a_worse_challenger_is_refused_by_what_it_restored_and_its_figures_are_metrics(
    registry: Registry, worse: Path
) -> None:
    (stack,) = stacks_of(SceneSet(cells=("MGRS-33TWL",)))
    part = stack.window(slice(100, 420), slice(300, 620))
    dates = ([part.index_of(f"S2A_33TWL_{day}_0_L2A")] for day in ("20230818", "20230815"))
    cases = [case.alone(256) for case in real_cases(part, *dates)]

    def usage(_: ModelCard) -> RestorationOptions:
        return RestorationOptions(ONE_STEP)

    loose = Gates(
        least_blocks=5,
        most_time_ratio=10,
        least_coverage=0,
        most_coverage=1,
        least_trivial_gain_db=-20,
        least_psnr_db=10,
    )
    champion, challenger = (registry.resolve(f"models:/{MODEL_NAME}/{version}") for version in "12")
    judged = compare_versions(
        registry, champion, challenger, cases=lambda: cases, usage=usage, gates=loose, run=RunSettings()
    )
    comparison = judged.comparison
    assert comparison.gain.images >= 5 and comparison.gain.high < 0
    assert not judged.verdict.passed and "gain in PSNR over the champion" in judged.verdict.reasons[0]
    assert comparison.changed_pixels == 0
    old, new = (evaluate(path, cases, usage) for path in (checkpoint.shipped_weights(), worse))
    back = compared(new, old)
    assert back.gain.mean == pytest.approx(-comparison.gain.mean) and back.cases == comparison.cases
    assert judge(back, loose).passed
    client = registry._client
    version = client.get_model_version(MODEL_NAME, "2")
    metrics = client.get_run(version.run_id).data.metrics
    assert metrics["psnr_db"] == pytest.approx(comparison.psnr) and metrics["gate/gain"] == comparison.gain.low
    model = {metric.key: metric for metric in client.get_logged_model(version.tags["unveil_model_id"]).metrics}
    assert model["psnr_db"].value == metrics["psnr_db"] and model["psnr_db"].dataset_name == "MGRS-33TWL"
    (data,) = client.get_run(version.run_id).inputs.dataset_inputs
    assert comparison.cases.startswith(data.dataset.digest) and data.tags[0].value == "evaluation"


def comparison_of(**changes: float) -> Comparison:
    values = {"gain": 0.1, "low": 0.05, "blocks": 50, "trivial": 0.2} | changes
    gain = Interval(values.pop("gain"), values.pop("low"), 0.2, int(values.pop("blocks")))
    trivial = Interval(values.pop("trivial"), 0.1, 0.3, gain.images)
    usual = {"psnr": 27.0, "coverage": 0.9, "changed_pixels": 0, "time_ratio": 1.0, "size_bytes": 5_000_000}
    return Comparison(gain=gain, trivial_gain=trivial, trivial="flat", cases="0", **usual | values)  # type: ignore[arg-type]


def shadow_of(**changes: float) -> Shadow:
    old = Measured(passed=True, residual_cloud=0.001, seam_ratio=1.0, half_width=0.02, seconds=1)
    new = {"passed": 1, "residual_cloud": 0.001, "seam_ratio": 1.0, "half_width": 0.02, "seconds": 1}
    scene = {"pixels": 100, "difference": 0.001, "changed_pixels": 0}
    scene |= {name: changes.pop(name) for name in list(changes) if name in scene}
    challenger = Measured(**new | changes)  # type: ignore[arg-type]
    return Shadow((ShadowScene(item_id="i", target_id="t", champion=old, challenger=challenger, **scene),))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"low": -0.03}, "gain in PSNR over the champion"),
        ({"low": float("nan")}, "gain in PSNR over the champion"),
        ({"trivial": -0.1}, "over flat (dB) is -0.1, below the limit of 0"),
        ({"blocks": 19}, "blocks compared is 19, below"),
        ({"psnr": 19.9}, "PSNR (dB) is 19.9, below the limit of 20"),
        ({"time_ratio": 1.6}, "champion's is 1.6, above"),
        ({"size_bytes": 41e6}, "is 41, above the limit of 40"),
        ({"coverage": 0.84}, "90 % intervals is 0.84, below"),
        ({"coverage": 0.96}, "90 % intervals is 0.96, above"),
        ({"changed_pixels": 1}, "observed pixels changed is 1"),
    ],
)
def test_every_gate_of_the_evaluation_can_refuse(changes: dict[str, float], says: str) -> None:
    assert judge(comparison_of(), Gates()).passed
    (reason,) = judge(comparison_of(**changes), Gates()).reasons
    assert says in reason


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"passed": False}, "only the challenger fails"),
        ({"changed_pixels": 1}, "observed pixels that differ is 1"),
        ({"residual_cloud": 0.012}, "Residual cloud above"),
        ({"seam_ratio": 1.3}, "Seam ratio over"),
        ({"half_width": 0.04}, "Half-width over"),
    ],
)
def test_every_gate_of_the_shadow_run_can_refuse(changes: dict[str, float], says: str) -> None:
    assert judge(comparison_of(), Gates(), shadow_of()).passed
    (reason,) = judge(comparison_of(), Gates(), shadow_of(**changes)).reasons
    assert says in reason
    (reason,) = judge(comparison_of(), Gates(least_shadow_scenes=1), Shadow(())).reasons
    assert "published scenes restored is 0" in reason


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


def test_a_version_whose_weights_are_damaged_is_not_made_the_champion(registry: Registry) -> None:
    challenger = registry.resolve(f"models:/{MODEL_NAME}/2")
    weights = registry.weights(challenger)
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    try:
        with pytest.raises(InvalidCheckpoint, match="the file was changed"):
            promote(registry, challenger, "in haste")
        move(registry, PREVIOUS, "2")
        with pytest.raises(InvalidCheckpoint, match="the file was changed"):
            rollback(registry, MODEL_NAME)
        assert registry.aliases(MODEL_NAME) == {CHAMPION: "1", CHALLENGER: "2", PREVIOUS: "2"}
    finally:
        weights.write_bytes(whole)


def test_what_was_not_evaluated_is_not_said_to_have_passed() -> None:
    report = as_markdown(PromoteSummary(MODEL_NAME, "2", "1", None, None))
    assert "version 2: not evaluated; nothing was moved." in report


def test_there_is_nothing_to_go_back_to_at_first(registry: Registry) -> None:
    with pytest.raises(UnknownModel, match="no previous champion"):
        rollback(registry, MODEL_NAME)


def test_a_champion_that_changed_during_the_comparison_is_not_replaced(registry: Registry) -> None:
    challenger = registry.resolve(f"models:/{MODEL_NAME}@{CHALLENGER}")
    with pytest.raises(ChampionChanged, match="version 9, but version 1"):
        promote(registry, challenger, "a test", against="9")
    assert registry.aliases(MODEL_NAME)[CHAMPION] == "1"


#: For each line of its input, runs a command in a child that is killed (SIGKILL) before its n-th change.
EXECUTIONER = """
import os, signal, sys
from pathlib import Path
import mlflow
from flows.models import promotion
from flows.models.registry import Registry

def run(what, left):
    def deadly(step):
        def change(*arguments):
            nonlocal left
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
            return step(*arguments)
        return change

    for name in ("set_registered_model_alias", "delete_registered_model_alias", "set_model_version_tag"):
        setattr(mlflow.MlflowClient, name, deadly(getattr(mlflow.MlflowClient, name)))
    registry = Registry(Path(sys.argv[1]))
    if what == "promote":
        promotion.promote(registry, registry.resolve("models:/unveil-de/2"), "a test")
    else:
        promotion.rollback(registry, "unveil-de")

for line in sys.stdin:
    what, after = line.split()
    child = os.fork()
    if not child:
        run(what, int(after))
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def executioner(state: Path) -> Iterator[subprocess.Popen[str]]:
    environ = environment(state.parent / "home")
    command = [sys.executable, "-c", EXECUTIONER, str(state)]
    with subprocess.Popen(
        command, cwd=ROOT, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.stdin.close()  # type: ignore[union-attr]


def status_of(executioner: subprocess.Popen[str], what: str, after: int) -> int:
    """Return how a command ended that was to be killed before a change: it may have fewer."""
    assert executioner.stdin is not None and executioner.stdout is not None
    executioner.stdin.write(f"{what} {after}\n")
    executioner.stdin.flush()
    return int(executioner.stdout.readline())


@pytest.mark.timeout(300)
@pytest.mark.parametrize("what", ["promote", "rollback"])
def test_killed_before_any_step_the_next_command_finds_old_or_new(
    registry: Registry, executioner: subprocess.Popen[str], what: str
) -> None:
    champions: list[str] = []
    status = -signal.SIGKILL
    while status == -signal.SIGKILL:
        if what == "rollback":
            move(registry, PREVIOUS, "2")
        status = status_of(executioner, what, len(champions))
        champion = registry.aliases(MODEL_NAME)[CHAMPION]
        if champion == "2" and what == "promote":
            assert rollback(registry, MODEL_NAME).champion == "1", "what a promotion replaced is known before it moves"
        move(registry, CHAMPION, "1")
        move(registry, CHALLENGER, "2")
        champions.append(champion)
    assert status == 0 and len(champions) >= 3
    assert set(champions) == {"1", "2"} and champions == sorted(champions), "the champion moves once"


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


def files_of(root: Path) -> dict[str, str]:
    found = (path for path in root.glob("[!.]*/**/*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def test_published_scenes_are_made_again_beside_each_other(tiny_run: Run, tmp_path: Path) -> None:
    settings = load_settings(None, {"out": str(tiny_run.root)})
    champion = resolve(settings)
    enhancer = checkpoint.load(Path(champion.weights))
    for parameter in enhancer.parameters():
        parameter.data *= 1.05
    weights = tmp_path / "other.safetensors"
    checkpoint.save(enhancer, weights)
    # Nothing says that the shipped weights beat the ground around; the other's record says that they do.
    figures = {Filler.FLAT: Figures(0.04, 25.0), Filler.DE: Figures(0.01, 35.0)}
    kinds = {kind: KindRecord(1, 1, 1, figures) for kind in UNVALIDATED}
    ValidationRecord(checkpoint.sha256_of(weights), enhancer.card.bands, "a test", kinds).save(validation_path(weights))
    other = replace(champion, version="2", weights=str(weights), sha256=checkpoint.sha256_of(weights))
    before = files_of(tiny_run.root)
    shadow = shadow_run(settings, champion, other, 1, tmp_path / "work", tmp_path)
    assert files_of(tiny_run.root) == before, "a shadow run publishes nothing"
    (scene,) = shadow.scenes
    assert not shadow.skipped and scene.target_id in scene.item_id
    assert scene.pixels > 0 and scene.difference > 0, "the products differ in gaps"
    assert scene.changed_pixels == 0, "and nowhere else"
    published = tiny_run.root / DEFAULT_COLLECTION / scene.item_id / "data.tif"
    assert (tmp_path / "work" / "0-champion" / "data.tif").read_bytes() == published.read_bytes()
    assert (tmp_path / f"shadow-{scene.item_id}.png").is_file()
    none = shadow_run(settings, champion, other, 0, tmp_path / "none", tmp_path)
    assert none.scenes == () and none.width_ratio is None
