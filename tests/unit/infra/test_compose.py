"""infra/compose, infra/image, infra/prefect: valid, confined, without secrets, and true to the code that they run."""

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

from flows.ops.up.supervisor import POOL
from tests.command import ROOT
from tests.containers import FOLDER, REFERENCE, document, interpolated, problem_of, services, unknown_settings
from tests.rehearsal.dockerfile import Ignore, parse

COMPOSE = FOLDER / "compose.yaml"
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
DOCKERFILE = ROOT / "infra" / "image" / "Dockerfile"


def ends(service: dict[str, Any]) -> bool:
    """It does its work once."""
    return bool(service.get("restart") == "no")


@pytest.mark.parametrize("path", [COMPOSE, FOLDER / "gpu.yaml"], ids=lambda p: p.name)
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
    # Else Compose would look for an image of ours in a registry first.
    assert (service.get("pull_policy") == "build") == (name in OURS)


@pytest.mark.parametrize("name", OURS)
def test_a_service_of_ours_has_as_many_threads_as_processors(name: str) -> None:
    service = SERVICES[name]
    assert service["environment"]["OMP_NUM_THREADS"] == str(service["deploy"]["resources"]["limits"]["cpus"])


def test_ports_are_published_on_loopback_once() -> None:
    published = [port.split(":") for service in SERVICES.values() for port in service.get("ports", [])]
    assert {address for address, *_ in published} == {"127.0.0.1"}
    outer = [port for _, port, _ in published]
    assert len(outer) == len(set(outer)) >= 6
    assert not [name for name in ("write", "prometheus", "metrics") if "ports" in SERVICES[name]], "they know no login"


def test_databases_and_objects_are_out_of_reach() -> None:
    internal = {name for name, net in document()["networks"].items() if net.get("internal")}
    for name in ("database", "s3"):
        assert set(SERVICES[name]["networks"]) <= internal and "ports" not in SERVICES[name]
    on_objects = {name for name, service in SERVICES.items() if "objects" in service.get("networks", [])}
    assert on_objects == {name for name, s in SERVICES.items() if "AWS_SECRET_ACCESS_KEY" in s.get("environment", {})}


def test_what_changes_something_asks_for_the_login_that_its_clients_have() -> None:
    servers, client = (
        {name: SERVICES[name]["environment"] for name in ("prefect", "mlflow")},
        SERVICES["worker"]["environment"],
    )

    def source(value: str) -> str:
        match = REFERENCE.fullmatch(value)
        assert match is not None
        return match["name"]

    server = source(servers["prefect"]["PREFECT_SERVER_API_AUTH_STRING"])
    assert server == source(client["PREFECT_API_AUTH_STRING"]) == "UNVEIL_PREFECT_LOGIN"
    for name in servers:
        assert any(word.startswith("--allowed-hosts=") for word in SERVICES[name]["command"])
    assert servers["mlflow"]["MLFLOW_AUTH_ADMIN_USERNAME"] == client["MLFLOW_TRACKING_USERNAME"]
    password = source(servers["mlflow"]["MLFLOW_AUTH_ADMIN_PASSWORD"])
    assert password == source(client["MLFLOW_TRACKING_PASSWORD"]) == "UNVEIL_MLFLOW_LOGIN"
    token = SERVICES["write"]["environment"]["UNVEIL_INDEX_TOKEN"]
    assert (
        "flows.services.gate:transactions_api" in SERVICES["write"]["command"] and source(token) == "UNVEIL_INDEX_TOKEN"
    )
    assert source(client["UNVEIL_INDEX_TOKEN"]) == "UNVEIL_INDEX_TOKEN"


def test_what_is_written_can_be_written_on_a_read_only_root() -> None:
    def on(service: str, places: list[str], *names: str) -> None:
        for name in names:
            path = Path(SERVICES[service]["environment"][name])
            assert any(path.is_relative_to(place) for place in places), name

    mounts = {name: [v.split(":")[1] for v in SERVICES[name]["volumes"]] for name in ("prefect", "worker")}
    on(
        "prefect",
        [*mounts["prefect"], *SERVICES["prefect"]["tmpfs"]],
        "PREFECT_HOME",
        "PREFECT_SERVER_UI_STATIC_DIRECTORY",
    )
    # /tmp is memory of the container, and nothing may be executed there.
    on("worker", mounts["worker"], "TMPDIR", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")


def test_a_slow_scrape_is_not_a_sick_service() -> None:
    assert "/metrics" not in json.dumps(SERVICES["metrics"]["healthcheck"])


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
    references = list(REFERENCE.finditer(COMPOSE.read_text("utf-8")))
    assert {match["name"] for match in references} == VARIABLES.keys()
    for name, value in VARIABLES.items():
        kinds = {match["kind"] for match in references if match["name"] == name}
        # Required ones have no value in the example, and an explanation somewhere; the others have a default.
        assert kinds == ({":-"} if value is None else {":?"}) and not value, name
        assert value is None or any(match["text"] for match in references if match["name"] == name), name


def test_the_file_with_the_secrets_is_ignored_by_git() -> None:
    assert "/infra/compose/.env" in (ROOT / ".gitignore").read_text("utf-8").splitlines()


def test_mounted_and_built_files_are_in_the_repository() -> None:
    for name, service in SERVICES.items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (FOLDER / source).exists(), (name, source)
            else:
                assert source in document()["volumes"], (name, source)
        if build := service.get("build"):
            assert (FOLDER / build["context"]).resolve() == ROOT, name
            assert ROOT / build["dockerfile"] == DOCKERFILE, name


def test_the_image_ends_as_a_user_with_the_libraries_that_wheels_need() -> None:
    build, final = parse(DOCKERFILE.read_text("utf-8"))
    assert build.base == final.base and re.fullmatch(r"python:\d+\.\d+\.\d+-slim-bookworm", final.base)
    assert [step.text for step in final.steps if step.instruction == "USER"] == ["10001:10001"]
    for stage in (build, final):
        install = next(step.text for step in stage.steps if "apt-get install" in step.text)
        # rasterio's GDAL, and LightGBM of s2cloudless: slim images have neither.
        assert {"libexpat1", "libgomp1"} <= set(install.split())
    extras = re.search(r'-e "\.\[([\w,]+)\]"', " ".join(step.text for step in build.steps))
    assert extras and set(extras[1].split(",")) >= {"gpu", "dask", "metrics", "pgstac", "masks"}
    for step in build.steps:
        if step.instruction == "COPY":
            *sources, _ = step.options()[1].split()
            assert all((ROOT / source).exists() for source in sources), step.text


def test_the_builder_is_sent_what_the_image_needs_and_no_secret(tmp_path: Path) -> None:
    needed = [
        "flows/cli/__init__.py",
        "stac/__init__.py",
        "infra/image/prepare.py",
        "infra/prefect/deploy.py",
        "prefect.yaml",
    ]
    secret = [
        ".env",
        "infra/compose/.env",
        "flows/.env",
        "infra/image/prod.env",
        "id_rsa",
        "notes/x.txt",
        ".git/config",
    ]
    for path in [*needed, *secret, "flows/__pycache__/x.pyc"]:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    assert Ignore.read(ROOT / ".dockerignore").files(tmp_path) == sorted(needed)


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
    # What `prepare` reads is its own.
    assert name == "prepare" or list(unknown_settings(OURS[name].get("environment", {}))) == []


def test_a_run_in_the_worker_finds_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.settings.loading import load_settings

    given = {name: interpolated(str(value), dict.fromkeys(VARIABLES, "x")) for name, value in _worker().items()}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    assert str(settings.out) == "/srv/catalog" and str(settings.state) == "/srv/state"
    assert settings.shareable["ledger_url"] == _worker()["UNVEIL_LEDGER_URL"], "no password in it"
    assert settings.index_addresses == ("http://write:8080",) and settings.mlflow_uri == "http://mlflow:5000"


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
    prometheus = ROOT / "infra" / "prometheus"
    ((group,), port) = yaml.safe_load((prometheus / "services.yml").read_text("utf-8")), "9464"
    assert group["targets"] == [f"metrics:{port}"] and port in SERVICES["metrics"]["command"]
    provisioning = ROOT / "infra" / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text("utf-8"))["datasources"]
    assert source["url"] == "http://prometheus:9090" and source["isDefault"] and source["type"] == "prometheus"
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "unveil.yml").read_text("utf-8"))["providers"]
    mounted = {volume.split(":")[1] for volume in SERVICES["grafana"]["volumes"]}
    assert f"{provider['options']['path']}/unveil.json" in mounted
    assert SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] in mounted


def test_the_image_installs_nothing_without_a_pin() -> None:
    pins, more = pinned(ROOT / "constraints.txt"), DOCKERFILE.parent / "requirements.txt"
    named = {
        line.split("==")[0].lower().replace("_", "-")
        for line in more.read_text("utf-8").splitlines()
        if line and line[0] != "#"
    }
    extra = pinned(more)
    assert not pins.keys() & extra.keys(), "one place for a version"
    assert named - extra.keys() <= pins.keys() and len(extra) > 10


def pinned(path: Path) -> dict[str, str]:
    lines = re.findall(r"^([\w.-]+)==(\S+)$", path.read_text("utf-8"), re.MULTILINE)
    return {name.lower().replace("_", "-"): version for name, version in lines}


def template(kind: str) -> dict[str, Any]:
    return dict(json.loads((ROOT / "infra" / "prefect" / f"{kind}-job.json").read_text("utf-8")))


@pytest.mark.parametrize("kind", ["docker", "kubernetes"])
def test_every_placeholder_of_a_job_template_is_a_variable(kind: str) -> None:
    used = set(re.findall(r"{{ (\w+) }}", json.dumps(template(kind)["job_configuration"])))
    # The worker of Kubernetes adds `env` to the list that the template has.
    assert used | ({"env"} if kind == "kubernetes" else set()) == template(kind)["variables"]["properties"].keys()


def test_a_container_of_docker_may_do_little() -> None:
    variables = template("docker")["variables"]["properties"]
    given = variables["container_create_kwargs"]["default"]
    assert given["cap_drop"] == ["ALL"] and given["security_opt"] == ["no-new-privileges:true"]
    assert given["user"] == "10001:10001" and "privileged" not in template("docker")["job_configuration"]
    # Compiled code of a model is loaded from /tmp.
    assert given["read_only"] and "exec" in given["tmpfs"]["/tmp"].split(",")  # noqa: S108
    assert given["nano_cpus"] == int(variables["env"]["default"]["OMP_NUM_THREADS"]) * 10**9
