"""infra/kubernetes and the job template of the work pool: built by kubectl, valid, confined, and true to each other."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from typing import Any

import jsonschema
import pytest
import yaml

from tests.command import ROOT
from tests.containers import problem_of, unknown_settings

FOLDER = ROOT / "infra" / "kubernetes"
OVERLAYS = ("laptop", "gpu-node", "many-nodes")
SCHEMAS = json.loads((ROOT / "tests/data/schemas/kubernetes-1.37.json").read_text("utf-8"))["$defs"]
DEPLOY = runpy.run_path(str(ROOT / "infra/prefect/deploy.py"), run_name="deploy")
#: Keys of the Secret `unveil`, which is made of the same file as the environment of Compose.
SECRET = set(
    re.findall(r"^#?([A-Z][A-Z0-9_]+)=", (ROOT / "infra/compose/example.env").read_text("utf-8"), re.MULTILINE)
)
CONFINED = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}

if shutil.which("kubectl") is None and not os.environ.get("CI"):
    pytest.skip(
        "kubectl builds the overlays; it is not installed, and needs no cluster for this", allow_module_level=True
    )


@cache
def built(overlay: str) -> list[dict[str, Any]]:
    """The objects of an overlay, as kubectl builds them."""
    command = ["kubectl", "kustomize", FOLDER / "overlays" / overlay]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def of_kind(overlay: str, *kinds: str) -> dict[str, dict[str, Any]]:
    return {each["metadata"]["name"]: each for each in built(overlay) if each["kind"] in kinds}


def validate(document: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator({"$ref": f"#/$defs/{document['kind']}", "$defs": SCHEMAS}).validate(document)


def job(overlay: str = "laptop", **variables: Any) -> dict[str, Any]:
    """The job of a flow run: Prefect fills the template, whose defaults the overlay changes."""
    from prefect.utilities.templating import apply_values

    defaults = json.loads(of_kind(overlay, "ConfigMap")["setup"]["data"]["POOL_DEFAULTS"])
    template = DEPLOY["template"]("kubernetes", defaults)
    properties = template["variables"]["properties"]
    given = {name: each["default"] for name, each in properties.items() if "default" in each}
    given |= {"image": "registry.example/unveil:0.1.0", "name": "brave-otter", "command": "prefect flow-run execute"}
    manifest: dict[str, Any] = apply_values(template["job_configuration"], given | variables)["job_manifest"]
    (container,) = manifest["spec"]["template"]["spec"]["containers"]
    container["args"] = container["args"].split()
    return manifest


def pods(overlay: str) -> dict[str, tuple[dict[str, str], dict[str, Any]]]:
    """Labels and specification of every pod by name: of the workloads, and of a flow run."""
    made = of_kind(overlay, "Deployment", "StatefulSet", "Job") | {"flow-run": job(overlay)}
    templates = {name: each["spec"]["template"] for name, each in made.items()}
    return {name: (each["metadata"]["labels"], each["spec"]) for name, each in templates.items()}


def containers(overlay: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, (_, spec) in pods(overlay).items():
        for each in [*spec.get("initContainers", []), *spec["containers"]]:
            yield name, each


def ours(overlay: str) -> Iterator[tuple[str, dict[str, Any]]]:
    yield from ((name, each) for name, each in containers(overlay) if "unveil:" in each["image"])


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_kubectl_builds_is_valid_by_the_schemas_of_kubernetes(overlay: str) -> None:
    for each in [*built(overlay), job(overlay)]:
        validate(each)
        assert each["kind"] == "Namespace" or each["metadata"]["namespace"] == "unveil"


def test_a_wrong_field_is_noticed() -> None:
    document = json.loads(json.dumps(of_kind("laptop", "Deployment")["worker"]))
    document["spec"]["template"]["spec"]["containers"][0]["livenesProbe"] = {}
    with pytest.raises(jsonschema.ValidationError, match="livenesProbe"):
        validate(document)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_pod_may_do_little(overlay: str) -> None:
    for name, (labels, spec) in pods(overlay).items():
        assert labels["app.kubernetes.io/name"] == name
        pod = spec["securityContext"]
        assert pod["runAsNonRoot"] and pod["runAsUser"] > 0 and pod["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] == (name == "worker") and not spec["enableServiceLinks"], name
        assert spec["serviceAccountName"] == ("unveil-worker" if name == "worker" else "unveil")
    for name, container in containers(overlay):
        assert container["securityContext"] == CONFINED, (name, container["name"])
        assert (
            container["resources"]["requests"].keys() >= {"cpu", "memory"}
            and "memory" in container["resources"]["limits"]
        )
        assert name in ("flow-run", "setup") or {"startupProbe", "livenessProbe"} <= container.keys(), name
        assert re.search(r":v?\d[\w.-]+$", container["image"]), "an exact tag"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_threads_are_as_many_as_processors(overlay: str) -> None:
    wanted = {"resource": "requests.cpu"}
    for name, container in ours(overlay):
        if container["name"] not in ("prepare", "model"):
            (threads,) = [each for each in container["env"] if each["name"] == "OMP_NUM_THREADS"]
            assert threads["valueFrom"]["resourceFieldRef"].items() >= wanted.items(), name


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_pod_names_what_there_is(overlay: str) -> None:
    claims = of_kind(overlay, "PersistentVolumeClaim").keys()
    maps = of_kind(overlay, "ConfigMap").keys()
    for name, (_, spec) in pods(overlay).items():
        own = {each["metadata"]["name"] for each in _workload(overlay, name).get("volumeClaimTemplates", [])}
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        assert {
            v["persistentVolumeClaim"]["claimName"] for v in volumes.values() if "persistentVolumeClaim" in v
        } <= claims
        assert {v["configMap"]["name"] for v in volumes.values() if "configMap" in v} <= maps
        mounted = {mount["name"] for _, c in containers(overlay) if _ == name for mount in c["volumeMounts"]}
        assert mounted == volumes.keys() | own, name
    for name, container in containers(overlay):
        ports = {port["name"] for port in container.get("ports", [])}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            for how in ("httpGet", "tcpSocket"):
                assert container.get(probe, {}).get(how, {"port": None})["port"] in ports | {None}, name
        for source in container.get("envFrom", []):
            assert source["configMapRef"]["name"] in maps
        for each in container.get("env", []):
            if "secretKeyRef" in each.get("valueFrom", {}):
                reference = each["valueFrom"]["secretKeyRef"]
                assert reference["name"] == "unveil" and reference["key"] in SECRET, (name, each)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_commands_and_settings_are_known(overlay: str) -> None:
    for name, container in ours(overlay):
        assert problem_of(container["args"]) is None, name
        literal = {each["name"]: each["value"] for each in container["env"] if "value" in each}
        assert list(unknown_settings(literal)) == [], name
    for name, container in containers(overlay):
        for each in container.get("env", []):
            secret = re.search("(PASSWORD|SECRET|SECRET_KEY|ACCESS_KEY|AUTH_STRING|TOKEN)$", each["name"])
            # A name of the Secret, or of a key in it, is none.
            assert not secret or each.get("value", "unveil") in SECRET | {"unveil"}, (name, each)
    maps = {name: each["data"] for name, each in of_kind(overlay, "ConfigMap").items()}
    assert list(unknown_settings(maps["unveil"])) == []
    assert not of_kind(overlay, "Secret") and not re.search(r"://\w+:[^/\s]+@", json.dumps(built(overlay)))


def _workload(overlay: str, name: str) -> dict[str, Any]:
    return dict(of_kind(overlay, "Deployment", "StatefulSet", "Job").get(name, {"spec": {}})["spec"])


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_services_reach_their_pods_and_addresses_their_services(overlay: str) -> None:
    found = pods(overlay)
    services = of_kind(overlay, "Service")
    for name, service in services.items():
        if service["spec"].get("type") == "ExternalName":
            continue
        labels, spec = found[service["spec"]["selector"]["app.kubernetes.io/name"]]
        assert labels.items() >= service["spec"]["selector"].items(), name
        there = {port["name"]: port["containerPort"] for each in spec["containers"] for port in each.get("ports", [])}
        assert all(there[port["targetPort"]] == port["port"] for port in service["spec"]["ports"]), name
    data = of_kind(overlay, "ConfigMap")["unveil"]["data"]
    for address in (data["PREFECT_API_URL"], data["UNVEIL_MLFLOW_URI"], data["UNVEIL_INDEXES"]):
        host, port = re.findall(r"http://([\w-]+):(\d+)", address)[0]
        assert services[host]["spec"]["ports"][0]["port"] == int(port)
    assert "@database/" in data["UNVEIL_LEDGER_URL"] and "database" in services
    for rule in (each for ingress in of_kind(overlay, "Ingress").values() for each in ingress["spec"]["rules"]):
        backend = rule["http"]["paths"][0]["backend"]["service"]
        assert backend["port"]["name"] in {port["name"] for port in services[backend["name"]]["spec"]["ports"]}


def test_people_reach_what_is_meant_for_them() -> None:
    for overlay in ("gpu-node", "many-nodes"):
        (ingress,) = of_kind(overlay, "Ingress").values()
        hosts = {rule["host"].split(".")[0] for rule in ingress["spec"]["rules"]}
        assert hosts == {"catalog", "stac", "tiles", "prefect", "mlflow", "grafana"}
        assert set(ingress["spec"]["tls"][0]["hosts"]) == {rule["host"] for rule in ingress["spec"]["rules"]}
        (visitors,) = [p for name, p in of_kind(overlay, "NetworkPolicy").items() if name == "visitors"]
        (chosen,) = visitors["spec"]["podSelector"]["matchExpressions"]
        assert set(chosen["values"]) == {
            r["http"]["paths"][0]["backend"]["service"]["name"] for r in ingress["spec"]["rules"]
        }
        assert "mlflow.unveil.example" in of_kind(overlay, "ConfigMap")["mlflow"]["data"]["MLFLOW_SERVER_ALLOWED_HOSTS"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_nothing_is_allowed_that_no_policy_names(overlay: str) -> None:
    policies = of_kind(overlay, "NetworkPolicy")
    assert policies["nothing"]["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    told = json.dumps(policies)
    named = set(re.findall(r'"app.kubernetes.io/name": "([\w-]+)"', told))
    named |= {word for each in re.findall(r'"values": \[([^\]]*)\]', told) for word in json.loads(f"[{each}]")}
    assert named <= pods(overlay).keys()
    (names,) = policies["names"]["spec"]["egress"]
    assert {"ipBlock": {"cidr": "169.254.20.10/32"}} in names["to"], "NodeLocal DNSCache"
    # What knows no login is called by those who need it.
    assert "flow-run" in json.dumps(policies["write"]["spec"]["ingress"])
    assert not {"write", "prometheus", "database"} & set(json.dumps(policies.get("visitors", {})).split('"'))


def test_a_slow_scrape_restarts_no_pod() -> None:
    (container,) = pods("laptop")["metrics"][1]["containers"]
    assert "/metrics" not in json.dumps([container["livenessProbe"], container["startupProbe"]])


def test_the_worker_has_the_rights_it_needs_and_its_namespace_only() -> None:
    assert not of_kind("laptop", "ClusterRole") and set(of_kind("laptop", "Role")) == {"unveil-worker"}
    (container,) = pods("laptop")["worker"][1]["containers"]
    (observed,) = [e for e in container["env"] if e["name"].endswith("OBSERVER_NAMESPACES")]
    assert observed["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.namespace"
    rules = of_kind("laptop", "Role")["unveil-worker"]["rules"]
    assert {v for rule in rules if "jobs" in rule["resources"] for v in rule["verbs"]} >= {"create", "watch", "delete"}
    assert not [rule for rule in rules if "*" in rule["verbs"] + rule["resources"] or "secrets" in rule["resources"]]


def test_a_flow_run_becomes_a_job_with_what_its_overlay_says() -> None:
    made = {overlay: job(overlay) for overlay in OVERLAYS}
    specs = {overlay: each["spec"]["template"]["spec"] for overlay, each in made.items()}
    assert "runtimeClassName" not in specs["laptop"] or specs["laptop"]["runtimeClassName"] is None
    assert specs["gpu-node"]["runtimeClassName"] == specs["many-nodes"]["runtimeClassName"] == "nvidia"
    assert specs["many-nodes"]["nodeSelector"] == {"nvidia.com/gpu.present": "true"}
    for overlay, spec in specs.items():
        (container,) = spec["containers"]
        # The worker refuses another name.
        assert container["name"] == "prefect-job"
        assert container["resources"]["limits"]["nvidia.com/gpu"] == (0 if overlay == "laptop" else 1)
        assert spec["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
        assert made[overlay]["spec"]["activeDeadlineSeconds"] > 3600
        on_s3 = of_kind(overlay, "ConfigMap")["unveil"]["data"]["UNVEIL_OUT"].startswith("s3://")
        assert any(volume == {"name": "catalog", "emptyDir": {}} for volume in spec["volumes"]) == on_s3


def test_s3_of_another_provider_is_named_by_files_alone() -> None:
    data = {name: each["data"] for name, each in of_kind("many-nodes", "ConfigMap").items() if "data" in each}
    assert data["unveil"].keys() >= {"UNVEIL_S3_ENDPOINT", "UNVEIL_S3_REGION", "UNVEIL_PUBLIC_ROOT", "UNVEIL_INDEXES"}
    assert data["mlflow"].keys() >= {"MLFLOW_S3_ENDPOINT_URL", "AWS_DEFAULT_REGION"}
    shared = of_kind("many-nodes", "PersistentVolumeClaim")["state"]["spec"]["accessModes"]
    assert shared == ["ReadWriteMany"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_setup_deploys_the_image_that_the_overlay_runs(overlay: str) -> None:
    data = of_kind(overlay, "ConfigMap")["setup"]["data"]
    assert {container["image"] for name, container in ours(overlay) if name != "flow-run"} == {data["UNVEIL_IMAGE"]}
    (container,) = pods(overlay)["worker"][1]["containers"]
    pools = {each["work_pool"]["name"] for each in DEPLOY["variant"]("kubernetes")["deployments"]}
    assert {f"--pool={pool}" for pool in pools} <= set(container["args"])


def test_a_default_of_no_variable_is_refused() -> None:
    with pytest.raises(KeyError, match="memroy"):
        DEPLOY["template"]("kubernetes", {"memroy": "1Gi"})
