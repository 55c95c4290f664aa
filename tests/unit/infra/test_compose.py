"""infra/compose and infra/pgstac: valid, confined, without secrets, and true to the code that they run."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from flows.up.members import POOL
from tests.command import ROOT
from tests.compose_stack import FOLDER, REFERENCE, documents, interpolated, services
from tests.container_commands import problem_of, unknown_settings

FILES = documents()
SERVICES = services()
OURS = {name: each for name, each in SERVICES.items() if each["image"].startswith("unveil:")}
SCHEMA = ROOT / "tests" / "data" / "schemas" / "compose-spec.json"
EXAMPLE = (FOLDER / "example.env").read_text("utf-8")
#: Variables of the example by name: None where they are commented out, as they have a default.
VARIABLES = {
    name: None if comment else value
    for comment, name, value in re.findall(r"^(#?)([A-Z][A-Z0-9_]+)=(.*)$", EXAMPLE, re.MULTILINE)
}
_SECRET = re.compile(r"PASSWORD|SECRET|TOKEN|ACCESS_KEY|KEY_ID|WEBHOOK|AUTH_STRING|LOGIN")


def ends(service: dict[str, Any]) -> bool:
    """It does its work once."""
    return bool(service.get("restart") == "no")


@pytest.mark.parametrize("path", [*FILES, FOLDER / "gpu.yaml"], ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_is_valid_by_the_schema_of_the_compose_specification(path: Path) -> None:
    schema = json.loads(SCHEMA.read_text("utf-8"))
    jsonschema.Draft202012Validator(schema).validate(yaml.safe_load(path.read_text("utf-8")))


def test_compose_itself_takes_the_files(tmp_path: Path) -> None:
    plugin = [["docker-compose"], ["docker", "compose"]]
    found = [
        c for c in plugin if shutil.which(c[0]) and subprocess.run([*c, "version"], capture_output=True).returncode == 0
    ]
    if not found:
        pytest.skip("Docker Compose is not installed; it needs no engine for this")
    values = tmp_path / "values.env"
    values.write_text("".join(f"{name}=x\n" for name, value in VARIABLES.items() if value is not None))
    files = ["-f", str(FOLDER / "compose.yaml"), "-f", str(FOLDER / "gpu.yaml"), "--env-file", str(values)]
    command = [*found[0], *files, "--profile", "deploy", "config", "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["services"].keys() == SERVICES.keys()


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_pinned_and_confined(name: str) -> None:
    service = SERVICES[name]
    repository, _, tag = service["image"].rpartition(":")
    assert repository and re.fullmatch(r"v?\d+[-.]\d[\w.-]*", tag), "an exact tag"
    assert re.fullmatch(r"[1-9]\d*:\d+", service["user"]), "not root, and a number, so that it can be seen"
    assert service["read_only"] and service["cap_drop"] == ["ALL"] and not service.get("privileged")
    assert service["security_opt"] == ["no-new-privileges:true"] and service["logging"]["options"]["max-size"]
    assert {"cpus", "memory", "pids"} == service["deploy"]["resources"]["limits"].keys()
    assert ends(service) or service["healthcheck"]["test"][0].startswith("CMD")


def test_ports_are_published_on_loopback_once() -> None:
    published = [port.split(":") for service in SERVICES.values() for port in service.get("ports", [])]
    assert {address for address, *_ in published} == {"127.0.0.1"}
    outer = [port for _, port, _ in published]
    assert len(outer) == len(set(outer)) >= 7


def test_databases_and_objects_are_out_of_reach() -> None:
    internal = {name for doc in FILES.values() for name, net in doc.get("networks", {}).items() if net.get("internal")}
    for name in ("database", "state-database", "s3"):
        assert set(SERVICES[name]["networks"]) <= internal and "ports" not in SERVICES[name]
    on_objects = {name for name, service in SERVICES.items() if "objects" in service.get("networks", [])}
    assert on_objects == {name for name, s in SERVICES.items() if "AWS_SECRET_ACCESS_KEY" in s.get("environment", {})}


def test_what_a_service_waits_for_can_come_true() -> None:
    for name, service in SERVICES.items():
        for other, how in service.get("depends_on", {}).items():
            done = ends(SERVICES[other])
            wanted = "service_completed_successfully" if done else "service_healthy"
            assert how["condition"] == wanted, (name, other)


def test_secrets_come_from_the_environment_only() -> None:
    for name, service in SERVICES.items():
        for variable, value in service.get("environment", {}).items():
            if _SECRET.search(variable):
                match = REFERENCE.fullmatch(str(value))
                assert match and (match["kind"] == ":?" or not match["text"]), (name, variable)
            assert not re.search(r"://[^/@\s]+:[^/@\s]+@", str(value)), (name, variable)
        assert not _SECRET.search(json.dumps(service.get("command", ""))), name


def test_every_variable_is_in_the_example() -> None:
    references = [match for path in FILES for match in REFERENCE.finditer(path.read_text("utf-8"))]
    assert {match["name"] for match in references} == VARIABLES.keys()
    for name, value in VARIABLES.items():
        kinds = {match["kind"] for match in references if match["name"] == name}
        # Required ones have no value in the example, and an explanation somewhere; the others have a default.
        assert kinds == ({":-"} if value is None else {":?"}) and not value, name
        assert value is None or any(match["text"] for match in references if match["name"] == name), name


def test_the_file_with_the_secrets_is_ignored_by_git() -> None:
    assert "/infra/compose/.env" in (ROOT / ".gitignore").read_text("utf-8").splitlines()


def test_mounted_and_built_files_are_in_the_repository() -> None:
    for path, document in FILES.items():
        for name, service in document["services"].items():
            for volume in service.get("volumes", []):
                source = volume.split(":")[0]
                if source.startswith("."):
                    assert (path.parent / source).exists(), (name, source)
                else:
                    assert source in document["volumes"], (name, source)
            if build := service.get("build"):
                assert (path.parent / build["context"]).resolve() == ROOT, name
                assert (ROOT / build["dockerfile"]).is_file(), name


@pytest.mark.parametrize("dockerfile", sorted((ROOT / "infra").glob("*/Dockerfile")), ids=lambda p: p.parent.name)
def test_an_image_ends_as_a_user_and_copies_what_there_is(dockerfile: Path) -> None:
    lines = dockerfile.read_text("utf-8").splitlines()
    assert [line for line in lines if line.startswith("USER")][-1] == "USER 10001:10001"
    images = re.findall(r"python:[\w.-]+", "\n".join(lines))
    assert images and set(images) == {"python:3.11.14-slim-bookworm"}
    for line in lines:
        if line.startswith("COPY ") and "--from" not in line:
            for source in line.split()[1:-1]:
                assert (ROOT / source).exists(), line


@pytest.mark.parametrize("name", OURS)
def test_a_command_is_one_that_the_image_has(name: str) -> None:
    assert problem_of(OURS[name]["command"]) is None


@pytest.mark.parametrize(
    "words", [["unveil", "serv"], ["unveil", "serve", "--prt", "1"], ["python", "-m", "flows.nothing"]]
)
def test_a_command_that_there_is_not_is_noticed(words: list[str]) -> None:
    assert problem_of(words)


@pytest.mark.parametrize("name", OURS)
def test_settings_are_settings(name: str) -> None:
    # What `state-prepare` reads is its own.
    assert name == "state-prepare" or list(unknown_settings(OURS[name].get("environment", {}))) == []


def test_a_run_in_the_worker_finds_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.loading import load_settings

    given = {name: interpolated(str(value), dict.fromkeys(VARIABLES, "x")) for name, value in _worker().items()}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    assert str(settings.out) == "/srv/catalog" and str(settings.state) == "/srv/state"
    assert settings.shareable["ledger_url"] == _worker()["UNVEIL_LEDGER_URL"], "no password in it"
    assert settings.index_addresses == ("http://write:8080",) and settings.mlflow_uri == "http://mlflow:5000"


def test_what_changes_something_asks_for_a_login() -> None:
    prefect, mlflow, write = (SERVICES[name]["environment"] for name in ("prefect", "mlflow", "write"))
    assert prefect["PREFECT_SERVER_API_AUTH_STRING"] and mlflow["MLFLOW_AUTH_ADMIN_PASSWORD"]
    assert write["UNVEIL_INDEX_TOKEN"] and "gate:transactions_api" in SERVICES["write"]["command"]
    assert {"PREFECT_API_AUTH_STRING", "MLFLOW_TRACKING_PASSWORD", "UNVEIL_INDEX_TOKEN"} <= _worker().keys()
    for name in ("prefect", "mlflow"):
        assert any(word.startswith("--allowed-hosts=") for word in SERVICES[name]["command"])
    assert "ports" not in SERVICES["prometheus"], "it asks for none"


def _worker() -> dict[str, Any]:
    return dict(SERVICES["worker"]["environment"])


def test_names_of_other_services_are_names_of_services() -> None:
    told = json.dumps([s.get("environment", {}) for s in SERVICES.values()])
    hosts = set(re.findall(r"(?:://|@)([a-z][a-z-]*)[:/]", told)) - {"unveil-mlflow"}
    assert hosts and hosts <= SERVICES.keys()


def test_the_worker_serves_the_pool_that_setup_makes() -> None:
    pools = {
        deployment["work_pool"]["name"]
        for deployment in yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    }
    assert pools == {POOL} and f"--pool={POOL}" in SERVICES["worker"]["command"]


def test_prometheus_asks_the_metrics_service_and_grafana_asks_prometheus() -> None:
    ((group,), port) = yaml.safe_load((FOLDER / "targets.yml").read_text("utf-8")), "9464"
    assert group["targets"] == [f"metrics:{port}"] and port in SERVICES["metrics"]["command"]
    provisioning = ROOT / "infra" / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text("utf-8"))["datasources"]
    assert source["url"] == "http://prometheus:9090" and source["isDefault"] and source["type"] == "prometheus"
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "unveil.yml").read_text("utf-8"))["providers"]
    mounted = {volume.split(":")[1] for volume in SERVICES["grafana"]["volumes"]}
    assert f"{provider['options']['path']}/unveil.json" in mounted
    assert SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] in mounted


def test_pins_that_two_files_hold_agree() -> None:
    pins, tiles = pinned(ROOT / "constraints.txt"), pinned(ROOT / "infra/tiles/requirements.txt")
    both = pins.keys() & tiles.keys()
    assert len(both) > 20 and {name: tiles[name] for name in both} == {name: pins[name] for name in both}


def pinned(path: Path) -> dict[str, str]:
    lines = re.findall(r"^([\w.-]+)==(\S+)$", path.read_text("utf-8"), re.MULTILINE)
    return {name.lower().replace("_", "-"): version for name, version in lines}
