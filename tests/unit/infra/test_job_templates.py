"""infra/prefect: templates of the jobs that worker pools make of flow runs."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.command import ROOT

FOLDER = ROOT / "infra" / "prefect"


def template(kind: str) -> dict[str, Any]:
    return dict(json.loads((FOLDER / f"{kind}-job.json").read_text("utf-8")))


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
