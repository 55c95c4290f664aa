"""Faults of operation, with the real components: proxies, odd and moved folders, deleted things; the doctor."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from typer.testing import CliRunner

from de_model import checkpoint
from flows.cli import app
from flows.errors import InvalidSettings, ServiceUnavailable, UnknownModel
from flows.ledger.schema import is_dead, new_run_id, started_at
from flows.models.promotion import PREVIOUS, promote, rollback
from flows.models.registry import CHAMPION, MODEL_NAME, Registry
from flows.ops.doctor import Status, examine
from flows.ops.up.supervisor import detach, place_for
from flows.services.prefect_server import client_of, prefect_api
from flows.settings import RunSettings
from flows.settings.loading import load_settings
from stac.catalog.check import check_catalog
from stac.catalog.geoparquet import ids_in
from stac.errors import DiskFull
from tests.command import TINY_BBOX, Run, environment, unveil
from tests.prefect_service import prefect_service

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

#: Nobody listens there.
DEAD_PROXY = "http://127.0.0.1:9"


@pytest.mark.parametrize("name", ["a#b", "what?", "line\nbreak"])
def test_a_folder_that_addresses_cannot_name_is_refused_before_anything_is_made(name: str, tmp_path: Path) -> None:
    for given in ({"out": tmp_path / name}, {"out": tmp_path / name / "catalog"}, {"state_dir": tmp_path / name}):
        with pytest.raises(InvalidSettings, match=r": '/.*ends an address; name another folder"):
            load_settings(None, given)
    with pytest.raises(InvalidSettings, match="ends an address"):
        place_for(tmp_path / name, tmp_path / "state", {}, browser=False)
    assert list(tmp_path.iterdir()) == []
    assert load_settings(None, {"out": tmp_path / "Zagreb 100% & więcej"}).out.name.startswith("Zagreb")  # type: ignore[union-attr]


@pytest.mark.slow
def test_a_proxy_of_the_environment_is_not_asked_for_loopback(services: dict[str, str], tmp_path: Path) -> None:
    proxies = dict.fromkeys(("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"), DEAD_PROXY)
    extra = services | proxies | {"NO_PROXY": "example.org", "no_proxy": ""}
    given = ("run", "--bbox", TINY_BBOX, "--datetime", "2023-08-18", "--out", tmp_path / "out", "--json")
    outcome = unveil(*given, home=tmp_path / "home", extra=extra)
    assert outcome.status == 0, outcome.err
    assert len(outcome.document["units"]) == 1


@pytest.fixture
def moved(tiny_run: Run, tmp_path: Path) -> Path:
    """The state folder of a catalog that was copied, so that MLflow's database names places of another folder."""
    folder = tmp_path / "moved" / "catalog" / ".unveil"
    return Path(shutil.copytree(tiny_run.root / ".unveil", folder, ignore=shutil.ignore_patterns("prefect")))


def test_a_moved_registry_finds_its_weights_below_the_present_folder(moved: Path) -> None:
    registry = Registry(moved)
    version = registry.resolve(f"models:/{MODEL_NAME}@{CHAMPION}")
    assert registry.weights(version).is_relative_to(moved.resolve())
    # What is kept from now on is kept here, too.
    folder = moved / "kept"
    folder.mkdir()
    (folder / "a.txt").write_text("a")
    with registry.session() as client:
        client.log_artifacts(version.run_id, str(folder), "notes")
    assert [path.is_relative_to(moved / "mlartifacts") for path in moved.rglob("notes/a.txt")] == [True]


def test_registering_lost_weights_again_brings_the_version_back(moved: Path) -> None:
    registry = Registry(moved)
    version = registry.resolve(f"models:/{MODEL_NAME}@{CHAMPION}")
    lost = registry.weights(version)
    shutil.rmtree(lost.parents[2])
    again = registry.register(checkpoint.shipped_weights())
    assert again.version == version.version and registry.weights(version) == lost


def test_a_version_that_was_deleted_in_mlflow_is_forgotten(moved: Path, tmp_path: Path) -> None:
    registry, weights = Registry(moved), tmp_path / "other.safetensors"
    model = checkpoint.load(checkpoint.shipped_weights())
    model.requires_grad_(False).apply(lambda module: [p.add_(1e-3) for p in module.parameters(recurse=False)])
    checkpoint.save(model, weights)
    second = registry.register(weights)
    promote(registry, second, "by hand")
    assert registry.aliases(MODEL_NAME) == {CHAMPION: "2", PREVIOUS: "1"}
    client = MlflowClient(registry.uri, registry.uri)
    # As people do it in the UI: the alias is moved back by hand, and the version that was tried is deleted.
    client.set_registered_model_alias(MODEL_NAME, CHAMPION, "1")
    client.delete_model_version(MODEL_NAME, "2")
    assert registry.aliases(MODEL_NAME)[CHAMPION] == "1"
    with pytest.raises(UnknownModel, match="no previous champion"):
        rollback(registry, MODEL_NAME)
    third = registry.register(weights)
    promote(registry, third, "again")
    assert registry.aliases(MODEL_NAME) == {CHAMPION: third.version, PREVIOUS: "1"}


@pytest.mark.slow
def test_a_password_that_is_missing_is_named_by_doctor_and_run(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    with prefect_service(home, environment(home, {"PREFECT_SERVER_API_AUTH_STRING": "unveil:word"})) as service:
        with client_of(service.url, home, "unveil:another"):
            (check,) = (each for each in examine(RunSettings(out=tmp_path)) if each.name == "Prefect")
            assert check.detail.endswith("refuses the credentials") and "PREFECT_API_AUTH_STRING" in check.remedy
            with pytest.raises(ServiceUnavailable, match="set PREFECT_API_AUTH_STRING"), prefect_api(tmp_path):
                pass
        with client_of(service.url, home, "unveil:word"), prefect_api(tmp_path) as url:
            assert url == service.url


def test_a_copied_catalog_has_all_collections_their_tables_and_whole_links(tiny_run: Run, tmp_path: Path) -> None:
    source = Path(shutil.copytree(tiny_run.root, tmp_path / "source", ignore=shutil.ignore_patterns("prefect")))
    copy = tmp_path / "copy"
    done = CliRunner().invoke(app, ["publish", "--out", str(source), "--to", str(copy), "--json"])
    assert done.exit_code == 0, done.output
    for collection in ("unveil-models", "unveil-cloud-free"):
        there = sorted(
            path.parent.name for path in source.glob(f"{collection}/*/*.json") if path.stem == path.parent.name
        )
        held = [name for file in (copy / collection / "_items").glob("*.parquet") for name in ids_in(file)]
        assert there and sorted(held) == there
    assert check_catalog(str(copy)).problems == ()
    for nested in (source, source / "copy", tmp_path):
        refused = CliRunner().invoke(app, ["publish", "--out", str(source), "--to", str(nested)])
        assert refused.exit_code != 0 and "lie in each other" in str(refused.exception)
    file = tmp_path / "file"
    file.touch()
    refused = CliRunner().invoke(app, ["publish", "--out", str(source), "--to", str(file)])
    said = str(refused.exception)
    assert refused.exit_code != 0 and said.startswith(f"{file} cannot be written") and "--out" not in said


def test_a_process_is_known_by_its_boot_and_its_ticks() -> None:
    ticks = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
    boot = Path("/proc/sys/kernel/random/boot_id").read_text()
    assert started_at(os.getpid()) == f"{boot[:8]}-{ticks}"
    run = new_run_id()
    assert not is_dead(run) and is_dead(run.replace(started_at(os.getpid()), f"{boot[:8]}-1"))
    child = subprocess.Popen([sys.executable, "-c", ""])
    of_child = run.replace(f":{os.getpid()}:", f":{child.pid}:")
    child.wait()
    assert is_dead(of_child)


def test_the_background_command_is_ours_whatever_lies_in_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("flows", "stac"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('this is the package of the user')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    with pytest.raises(ServiceUnavailable, match=r"unveil \d"):
        detach(["--version"], tmp_path / "state")


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with hardly any room; only where the system lets us mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("file systems cannot be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk_is_named_as_such_and_nothing_is_advised_to_be_removed(
    full_disk: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DiskFull, match="No room"):
        Registry(full_disk / "state").ensure_shipped()
    with pytest.raises(DiskFull, match="No room") as told, prefect_api(full_disk / "other"):
        pass
    assert "remove" not in str(told.value) and "Traceback" not in "".join(capfd.readouterr())


pytestmark = pytest.mark.integration

NAMES = [
    "compute", "output folder", "state folder", "Prefect", "MLflow", "source", "STAC Browser", "S3 credentials",
    "Sentinel Hub credentials",
]  # fmt: skip


@pytest.fixture
def nothing_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("PREFECT", "UNVEIL", "AWS", "SH_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "home"))


def doctor(home: Path, **extra: str) -> tuple[int, dict[str, Any]]:
    """Exit status and checks by name of `unveil doctor --json`."""
    done = unveil("doctor", "--out", home / "out", "--json", home=home, extra=extra)
    assert not (home / "out").exists(), "the doctor changed something"
    return done.status, {check["name"]: check for check in done.document}


@pytest.mark.usefixtures("nothing_configured")
def test_every_check_runs_and_nothing_is_made(tmp_path: Path) -> None:
    checks = examine(load_settings(None, {"out": tmp_path / "out"}))
    assert [check.name for check in checks] == NAMES
    assert not (tmp_path / "out").exists()
    failed = [check for check in checks if check.status is Status.FAIL]
    assert not failed, failed
    assert all(check.detail for check in checks)
    assert all(bool(check.remedy) is (check.status is not Status.OK) for check in checks)
    assert all("\n" not in check.detail + check.remedy for check in checks)


@pytest.mark.usefixtures("nothing_configured")
def test_services_that_do_not_answer_are_named_and_the_other_checks_still_run(tmp_path: Path) -> None:
    broken = {"PREFECT_API_URL": "http://name:secret@127.0.0.1:9/api", "UNVEIL_MLFLOW_URI": "http://127.0.0.1:9"}
    status, checks = doctor(tmp_path, **broken)
    assert status == 1 and list(checks) == NAMES
    assert {name for name, check in checks.items() if check["status"] == "FAIL"} == {"Prefect", "MLflow"}
    assert "127.0.0.1:9" in checks["Prefect"]["detail"] and "secret" not in json.dumps(checks)


@pytest.mark.usefixtures("nothing_configured")
def test_folders_and_sources_that_cannot_be_used_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    settings = load_settings(None, {"out": tmp_path / "file" / "out", "source": str(tmp_path / "nowhere")})
    checks = {check.name: check for check in examine(settings)}
    for name in ("output folder", "state folder", "source"):
        assert checks[name].status is Status.FAIL and str(tmp_path) in checks[name].detail
    monkeypatch.setenv("UNVEIL_SOURCE", "http://me:secret@127.0.0.1:9/v1")
    settings = load_settings(None, {"out": tmp_path})
    source = next(check for check in examine(settings) if check.name == "source")
    assert source.status is Status.FAIL and "secret" not in source.detail
