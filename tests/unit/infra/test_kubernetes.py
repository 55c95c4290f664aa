"""infra/kubernetes and the job template of the work pool: valid, confined, and true to each other."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.command import ROOT
from tests.container_commands import problem_of, unknown_settings

FOLDER = ROOT / "infra" / "kubernetes"
KUSTOMIZATION = yaml.safe_load((FOLDER / "kustomization.yaml").read_text("utf-8"))
OBJECTS: list[dict[str, Any]] = [
    each for name in KUSTOMIZATION["resources"] for each in yaml.safe_load_all((FOLDER / name).read_text("utf-8"))
]
SCHEMAS = json.loads((ROOT / "tests/data/schemas/kubernetes-1.37.json").read_text("utf-8"))["$defs"]
TEMPLATE = json.loads((ROOT / "infra/prefect/kubernetes-job.json").read_text("utf-8"))
SECRETS = (FOLDER / "secrets.example.env").read_text("utf-8")


def of_kind(kind: str) -> dict[str, dict[str, Any]]:
    return {each["metadata"]["name"]: each for each in OBJECTS if each["kind"] == kind}


def validate(document: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator({"$ref": f"#/$defs/{document['kind']}", "$defs": SCHEMAS}).validate(document)


def job(**variables: Any) -> dict[str, Any]:
    """The job of a flow run: Prefect fills the template, and the worker makes a list of the environment."""
    from prefect.utilities.templating import apply_values

    properties = TEMPLATE["variables"]["properties"]
    defaults = {name: each["default"] for name, each in properties.items() if "default" in each}
    given = {"image": "registry.example/unveil:0.1.0", "name": "brave-otter", "command": "prefect flow-run execute"}
    manifest: dict[str, Any] = apply_values(TEMPLATE["job_configuration"], defaults | given | variables)["job_manifest"]
    (container,) = manifest["spec"]["template"]["spec"]["containers"]
    container["env"] = [{"name": name, "value": value} for name, value in container["env"].items()]
    container["args"] = container["args"].split()
    return manifest


def pods() -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Name, labels and specification of every pod: of the deployments, and of a flow run."""
    for name, each in [*of_kind("Deployment").items(), ("flow-run", job(gpus=1))]:
        template = each["spec"]["template"]
        yield name, template["metadata"]["labels"], template["spec"]


PODS = {name: (labels, spec) for name, labels, spec in pods()}


@pytest.mark.parametrize("document", OBJECTS, ids=lambda d: f"{d['kind']}-{d['metadata']['name']}")
def test_an_object_is_valid_by_the_schema_of_kubernetes(document: dict[str, Any]) -> None:
    validate(document)


def test_a_wrong_field_is_noticed() -> None:
    document = json.loads(json.dumps(of_kind("Deployment")["worker"]))
    document["spec"]["template"]["spec"]["containers"][0]["livenesProbe"] = {}
    with pytest.raises(jsonschema.ValidationError, match="livenesProbe"):
        validate(document)


def test_the_kustomization_names_all_files() -> None:
    assert {*KUSTOMIZATION["resources"], "kustomization.yaml"} == {path.name for path in FOLDER.glob("*.yaml")}
    ((image,),) = [KUSTOMIZATION["images"]]
    assert re.fullmatch(r"\d+\.\d+\.\d+", str(image["newTag"]))
    assert {container["image"] for _, spec in PODS.values() for container in spec["containers"]} == {
        image["name"], f"{image['newName']}:{image['newTag']}",
    }  # fmt: skip


def test_kubectl_builds_it() -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed; it needs no cluster for this")
    done = subprocess.run(["kubectl", "kustomize", FOLDER], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    built = list(yaml.safe_load_all(done.stdout))
    assert len(built) == len(OBJECTS)
    for each in built:
        validate(each)
        assert each["kind"] == "Namespace" or each["metadata"]["namespace"] == KUSTOMIZATION["namespace"]


@pytest.mark.parametrize("name", PODS)
def test_a_pod_may_do_little(name: str) -> None:
    labels, spec = PODS[name]
    assert labels["app.kubernetes.io/name"] == name
    pod = spec["securityContext"]
    assert pod["runAsNonRoot"] and pod["runAsUser"] > 0 and pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] == (name == "worker") and not spec["enableServiceLinks"]
    assert spec["serviceAccountName"] == ("unveil-worker" if name == "worker" else "unveil")
    assert spec["serviceAccountName"] in of_kind("ServiceAccount")
    for container in spec["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
        }  # fmt: skip
        assert container["resources"]["requests"].keys() >= {"cpu", "memory"}
        assert "memory" in container["resources"]["limits"]
        assert name == "flow-run" or {"startupProbe", "livenessProbe"} <= container.keys()


@pytest.mark.parametrize("name", PODS)
def test_a_pod_names_what_there_is(name: str) -> None:
    _, spec = PODS[name]
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    claims = {v["persistentVolumeClaim"]["claimName"] for v in volumes.values() if "persistentVolumeClaim" in v}
    assert claims <= of_kind("PersistentVolumeClaim").keys()
    for container in spec["containers"]:
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes.keys()
        ports = {port["name"] for port in container.get("ports", [])}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert probe not in container or container[probe]["httpGet"]["port"] in ports
        for source in container["envFrom"]:
            if "configMapRef" in source:
                assert source["configMapRef"]["name"] in of_kind("ConfigMap")
            else:
                assert re.search(rf"^# {source['secretRef']['name']}: ", SECRETS, re.MULTILINE)
        words = [re.sub(r"\$\((\w+)\)", known_in_secrets, word) for word in container["args"]]
        assert problem_of(words) is None
        literal = {each["name"]: each.get("value") for each in container.get("env", [])}
        assert list(unknown_settings(literal)) == []
        assert not [variable for variable in literal if re.search("PASSWORD|SECRET|KEY", variable)]


def known_in_secrets(match: re.Match[str]) -> str:
    assert re.search(rf"^{match[1]}=", SECRETS, re.MULTILINE)
    return "x"


def test_settings_are_settings() -> None:
    in_secrets = dict(re.findall(r"^([A-Z_0-9]+)=(.*)$", SECRETS, re.MULTILINE))
    # Of the manifest itself: it is put into the command.
    in_secrets.pop("UNVEIL_MLFLOW_ARTIFACTS")
    assert list(unknown_settings(of_kind("ConfigMap")["unveil"]["data"] | in_secrets)) == []
    assert not [name for name, value in in_secrets.items() if re.search("PASSWORD|SECRET|KEY", name) and value]
    assert not of_kind("Secret") and not re.search(r"://\w+:[^/]", SECRETS)


def test_services_reach_their_pods() -> None:
    for name, service in of_kind("Service").items():
        ((label, value),) = service["spec"]["selector"].items()
        labels, spec = PODS[name]
        assert labels[label] == value
        (port,), (container,) = service["spec"]["ports"], spec["containers"]
        ((named,),) = [[each for each in container["ports"] if each["name"] == port["targetPort"]]]
        assert named["containerPort"] == port["port"]
    data = of_kind("ConfigMap")["unveil"]["data"]
    for address in (data["PREFECT_API_URL"], data["UNVEIL_MLFLOW_URI"]):
        host, port = re.match(r"http://([\w-]+):(\d+)", address).groups()  # type: ignore[union-attr]
        assert of_kind("Service")[host]["spec"]["ports"][0]["port"] == int(port)


def test_nothing_is_allowed_that_no_policy_names() -> None:
    policies = of_kind("NetworkPolicy")
    assert policies["nothing"]["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    named = re.findall(r'"app.kubernetes.io/name": "([\w-]+)"', json.dumps(policies))
    named += [
        word for each in re.findall(r'"values": \[([^\]]*)\]', json.dumps(policies)) for word in json.loads(f"[{each}]")
    ]
    assert set(named) == PODS.keys()


def test_the_worker_has_the_rights_it_needs_and_its_namespace_only() -> None:
    assert not of_kind("ClusterRole") and set(of_kind("Role")) == {"unveil-worker"}
    (container,) = PODS["worker"][1]["containers"]
    (observed,) = [e for e in container["env"] if e["name"].endswith("OBSERVER_NAMESPACES")]
    assert observed["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.namespace"
    rules = of_kind("Role")["unveil-worker"]["rules"]
    assert {v for rule in rules if "jobs" in rule["resources"] for v in rule["verbs"]} >= {"create", "watch", "delete"}
    assert not [rule for rule in rules if "*" in rule["verbs"] + rule["resources"] or "secrets" in rule["resources"]]


def test_a_flow_run_becomes_a_valid_job() -> None:
    for variables in ({}, {"gpus": 1, "node_selector": {"nvidia.com/gpu.present": "true"}}):
        made = job(**variables)
        validate(made)
        spec = made["spec"]["template"]["spec"]
        (container,) = spec["containers"]
        # The worker refuses another name.
        assert container["name"] == "prefect-job"
        assert container["resources"]["limits"]["nvidia.com/gpu"] == variables.get("gpus", 0)
        assert spec["nodeSelector"] == variables.get("node_selector", {})
        assert spec["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
        assert made["spec"]["activeDeadlineSeconds"] > 3600 and made["metadata"]["namespace"] == "unveil"


def test_pools_agree() -> None:
    deployments = yaml.safe_load((ROOT / "infra/prefect/kubernetes.yaml").read_text("utf-8"))["deployments"]
    (container,) = PODS["worker"][1]["containers"]
    assert {f"--pool={each['work_pool']['name']}" for each in deployments} <= set(container["args"])


def test_the_example_is_no_file_that_git_would_take_filled_in() -> None:
    assert (FOLDER / "secrets.example.env").name not in (ROOT / ".gitignore").read_text("utf-8")
    assert not list(Path(FOLDER).glob("secrets.env"))
