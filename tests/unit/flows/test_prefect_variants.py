"""The generated deployments for container pools are those of prefect.yaml."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[3] / "infra" / "prefect"


@pytest.mark.parametrize("kind", ["docker", "kubernetes"])
def test_they_are_up_to_date(kind: str) -> None:
    variant = runpy.run_path(str(FOLDER / "render.py"))["variant"]
    assert (FOLDER / f"{kind}.yaml").read_text("utf-8") == variant(kind), "run python infra/prefect/render.py"


@pytest.mark.parametrize("kind", ["docker", "kubernetes"])
def test_every_placeholder_of_a_job_template_is_a_variable(kind: str) -> None:
    template = json.loads((FOLDER / f"{kind}-job.json").read_text("utf-8"))
    used = set(re.findall(r"{{ (\w+) }}", json.dumps(template["job_configuration"])))
    assert used == template["variables"]["properties"].keys()


def test_a_container_of_docker_may_do_little() -> None:
    template = json.loads((FOLDER / "docker-job.json").read_text("utf-8"))
    given = template["variables"]["properties"]["container_create_kwargs"]["default"]
    assert given["cap_drop"] == ["ALL"] and given["security_opt"] == ["no-new-privileges:true"]
    assert given["user"] == "10001:10001" and "privileged" not in template["job_configuration"]
