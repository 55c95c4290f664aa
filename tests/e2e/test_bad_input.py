"""What goes wrong outside is told in one sentence, with the right exit status, and the catalog stays as it was."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from stac.search.static import sample_catalog
from tests.command import TINY_BBOX, TINY_SETTINGS, Outcome, Run, unveil
from tests.support.catalogs import problems_in

pytestmark = [pytest.mark.slow, pytest.mark.integration, pytest.mark.timeout(900)]

WORKING_FILES = (".unveil", ".publish.lock")
TARGETS = ("S2B_33TWM_20230810_0_L2A", "S2A_33TWM_20230818_0_L2A")


@dataclass(frozen=True, slots=True)
class Case:
    """Something wrong with what is asked for."""

    status: int
    kind: str
    #: What the sentence names.
    names: str
    arguments: tuple[str, ...] = ()
    extra: Mapping[str, str] = field(default_factory=dict)


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def content(root: Path) -> dict[str, bytes]:
    """Every file of a catalog, without what a run keeps for itself."""
    paths = (p for p in sorted(root.rglob("*")) if p.is_file())
    names = {p.relative_to(root): p for p in paths}
    return {str(name): p.read_bytes() for name, p in names.items() if name.parts[0] not in WORKING_FILES}


def assert_one_sentence(outcome: Outcome, status: int, kind: str, names: str) -> None:
    lines = [line for line in outcome.err.splitlines() if line.strip()]
    assert outcome.status == status, outcome.err
    assert len(lines) == 1 and lines[0].startswith("unveil: "), outcome.err
    assert names in lines[0]
    if outcome.out:
        assert outcome.document["error"] == {"kind": kind, "message": lines[0].removeprefix("unveil: ")}


@pytest.fixture(scope="module")
def state(tiny_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state folder in which the model is registered already, and which these runs may change."""
    return Path(shutil.copytree(tiny_run.root / ".unveil", tmp_path_factory.mktemp("bad-input") / "state"))


@pytest.fixture
def published(tiny_run: Run, tmp_path: Path) -> Path:
    """A catalog with two products."""
    return Path(shutil.copytree(tiny_run.root, tmp_path / "published", ignore=shutil.ignore_patterns(*WORKING_FILES)))


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    """A copy of the sample that a test may break."""
    return Path(shutil.copytree(sample_catalog().parent, tmp_path / "sample"))


OUTSIDE = {
    "empty search": Case(2, "EmptySearch", "2020-01-01/2020-01-05", ("--datetime", "2020-01-01/2020-01-05")),
    "unknown collection": Case(2, "InvalidQuery", "landsat-9", ("--collection", "landsat-9")),
    "no cloudy date": Case(2, "EmptySearch", "--max-cloud", ("--max-cloud", "6")),
    "unknown band": Case(2, "InvalidSettings", "swir16", extra={"UNVEIL_BANDS": "blue,green,red,swir16"}),
    "more steps than timesteps": Case(2, "InvalidModelInput", "choose 1 to 901", ("--steps", "950")),
    "unknown alias": Case(2, "UnknownModel", "alias nobody", ("--model", "models:/unveil-de@nobody")),
    "no catalog": Case(2, "UnreadableCatalog", "nowhere/catalog.json", ("--source", "nowhere/catalog.json")),
    "no API": Case(1, "SourceUnavailable", "does not answer", ("--source", "http://127.0.0.1:{port}/v1")),
    "Prefect away": Case(
        1, "ServiceUnavailable", "PREFECT_API_URL", ("--seed", "3"), {"PREFECT_API_URL": "http://127.0.0.1:{port}/api"}
    ),
    "MLflow away": Case(
        1, "ServiceUnavailable", "http://127.0.0.1:", extra={"UNVEIL_MLFLOW_URI": "http://127.0.0.1:{port}"}
    ),
    "wrong option": Case(2, "UsageError", "--sead", ("--sead", "3")),
}


@dataclass(frozen=True, slots=True)
class Ended:
    """A case that was run, and the catalog it met."""

    outcome: Outcome
    as_json: bool
    root: Path
    before: dict[str, bytes]


@pytest.fixture(scope="module")
def ended(tiny_run: Run, state: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ended]:
    """All cases of OUTSIDE, two at a time; in turn onto a catalog in use (as JSON) and onto nothing (for people)."""
    folder = tmp_path_factory.mktemp("outside")

    def run(index: int, name: str) -> Ended:
        case, port, used = OUTSIDE[name], str(unused_port()), index % 2 == 0
        home = folder / str(index)
        root = home / "catalog"
        if used:
            shutil.copytree(tiny_run.root, root, ignore=shutil.ignore_patterns(*WORKING_FILES))
        arguments = [argument.replace("{port}", port) for argument in case.arguments]
        if "--bbox" not in arguments:
            arguments += ["--bbox", TINY_BBOX]
        arguments += ["--out", str(root), "--state-dir", str(state), *(["--json"] if used else [])]
        extra = {key: value.replace("{port}", port) for key, value in case.extra.items()}
        before = content(root)
        outcome = unveil("run", *arguments, home=home, extra=TINY_SETTINGS | extra)
        return Ended(outcome, used, root, before)

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(OUTSIDE, pool.map(run, range(len(OUTSIDE)), OUTSIDE), strict=True))


@pytest.mark.parametrize("name", OUTSIDE)
def test_what_cannot_work_is_reported_before_anything_starts(name: str, ended: dict[str, Ended]) -> None:
    case, found = OUTSIDE[name], ended[name]
    if case.kind == "UsageError" and not found.as_json:  # with the parser's own hint
        assert found.outcome.status == case.status and case.names in found.outcome.err
    else:
        assert_one_sentence(found.outcome, case.status, case.kind, case.names)
    assert bool(found.outcome.out) is found.as_json
    assert content(found.root) == found.before
    assert problems_in(found.root) == [] if found.before else not found.root.exists()
    assert not list(found.root.parent.rglob("unveil-error.log"))


def scenes(outcome: Outcome) -> dict[str, dict[str, Any]]:
    return {unit["target_id"]: unit for unit in outcome.document["units"]}


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    document = json.loads(path.read_text("utf-8"))
    change(document)
    path.write_text(json.dumps(document), "utf-8")


def test_scenes_that_cannot_be_used_do_not_stop_the_others(
    sample: Path, state: Path, services: dict[str, str], tmp_path: Path
) -> None:
    # One target lacks an asset, a source is cut short, another source's item is no JSON; one target is intact.
    lacking, whole = TARGETS
    edit(sample / lacking / f"{lacking}.json", lambda item: item["assets"].pop("red"))
    os.truncate(sample / "S2B_33TWM_20230813_0_L2A" / "B04.tif", 200_000)
    (sample / "S2B_33TWM_20230820_0_L2A" / "S2B_33TWM_20230820_0_L2A.json").write_text('{"id": ')
    out = tmp_path / "catalog"
    arguments = ("run", "--source", sample, "--bbox", TINY_BBOX, "--out", out, "--state-dir", state)
    found = unveil(*arguments, "--json", home=tmp_path, extra=services)
    assert_one_sentence(found, 2, "ScenesInvalid", "Of 2 scenes 1 cannot be used")
    units = scenes(found)
    (unusable,) = (each for each in found.document["left_out"] if each["cause"] == "unusable item")
    assert "20230820" in unusable["target_id"] and "is not valid JSON" in unusable["reason"]
    assert units[lacking]["state"] == "INVALID" and "no asset for band red" in units[lacking]["error"]
    assert units[whole]["state"] == "SUCCEEDED"
    assert problems_in(out) == [] and len(list(out.glob("*/*/data.tif"))) == 1
    metadata = json.loads((Path(units[whole]["item_href"]).parent / "metadata.json").read_text())
    assert [reason for reason in metadata["dropped"] if "20230813" in reason and "cannot be read" in reason]
    assert "not used (metadata.json): " in units[whole]["note"] and "`unveil retract`" in units[whole]["note"]
    assert not [source for source in metadata["sources"] if "20230813" in source["id"] or "20230820" in source["id"]]
    item = json.loads(Path(units[whole]["item_href"]).read_text())
    assert not [link for link in item["links"] if "20230813" in link["href"]]
    # For people, the failure is on the summary of the run that finds the rest done.
    again = unveil(*arguments, home=tmp_path, extra=services)
    assert again.status == 2 and "INVALID" in again.out and "no asset for band red" in again.out.replace("\n", " ")


def test_a_broken_target_fails_alone_and_a_run_of_nothing_but_broken_ones_fails(
    sample: Path, published: Path, state: Path, services: dict[str, str], tmp_path: Path
) -> None:
    broken, whole = TARGETS
    os.truncate(sample / broken / "B04.tif", 200_000)
    before = content(published)
    arguments = ("run", "--source", sample, "--bbox", TINY_BBOX, "--out", published, "--state-dir", state, "--json")
    extra = services | {"UNVEIL_SEED": "5"}
    found = unveil(*arguments, home=tmp_path, extra=extra)
    assert_one_sentence(found, 1, "WorkFailed", "Of 2 scenes 1 failed")
    units = scenes(found)
    assert units[broken]["state"] == "FAILED" and units[whole]["state"] == "SUCCEEDED"
    assert "B04.tif cannot be read" in units[broken]["error"]
    after = content(published)
    # Documents above the items, the tables of items, and the older version of what was made again change.
    rewritten = ("collection.json", "catalog.json", ".parquet")
    kept = [name for name in before if not name.endswith(rewritten) and not (whole in name and name.endswith(".json"))]
    assert kept and all(after[name] == before[name] for name in kept)
    assert problems_in(published) == [] and len(list(published.glob("*/*/data.tif"))) == 3
    only = unveil(*arguments, "--datetime", "2023-08-10", home=tmp_path, extra=extra | {"UNVEIL_SEED": "6"})
    assert_one_sentence(only, 1, "WorkFailed", "B04.tif cannot be read")
    assert content(published) == after


@pytest.mark.parametrize("place", ["below a file", "where nothing can be made", "read-only"])
def test_a_folder_that_cannot_be_written_is_named(
    place: str, published: Path, state: Path, services: dict[str, str], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    before = content(published)
    if place == "below a file":
        out = tmp_path / "file" / "catalog"
        out.parent.write_text("")
    elif place == "where nothing can be made":
        out = Path("/proc/unveil/catalog")
    else:
        out = request.getfixturevalue("read_only")(published)
    given = ("--bbox", TINY_BBOX, "--out", out, "--state-dir", state, "--json", "--seed", "9")
    found = unveil("run", *given, home=tmp_path / "home", extra=services)
    assert found.status == 1
    assert_one_sentence(found, 1, found.document["error"]["kind"], "cannot be written")
    assert content(published) == before and problems_in(published) == []


@pytest.fixture
def mounted() -> Iterator[Callable[..., Path]]:
    """Mount something on a folder until the test ends; only where the system lets us."""
    done: list[Path] = []

    def mount(folder: Path, *options: str) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        found = subprocess.run(["mount", *options, str(folder)], capture_output=True, text=True, check=False)
        if found.returncode:
            pytest.skip(f"file systems cannot be mounted here: {found.stderr.strip()}")
        done.append(folder)
        return folder

    yield mount
    for folder in reversed(done):
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def read_only(mounted: Callable[..., Path]) -> Callable[[Path], Path]:
    """Return the folder, without permission to write to it."""

    def close(folder: Path) -> Path:
        if os.geteuid():
            folder.chmod(0o500)
            return folder
        mounted(folder, "--bind", str(folder))
        subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True)
        return folder

    return close


def test_a_full_disk_is_reported_and_leaves_the_catalog_whole(
    tiny_run: Run, state: Path, services: dict[str, str], tmp_path: Path, mounted: Callable[..., Path]
) -> None:
    small = mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=16m", "tmpfs")
    out = small / "catalog"
    shutil.copytree(tiny_run.root, out, ignore=shutil.ignore_patterns(*WORKING_FILES))
    (small / "filler").write_bytes(bytes(max(0, shutil.disk_usage(small).free - 48 * 1024)))
    before = content(out)
    given = ("--bbox", TINY_BBOX, "--out", out, "--state-dir", state, "--json", "--seed", "4")
    found = unveil("run", *given, home=tmp_path / "home", extra=services)
    assert_one_sentence(found, 1, "WorkFailed", "No room to write")
    assert content(out) == before and problems_in(out) == []
