"""Put the deployments of prefect.yaml on a pool of containers: python infra/prefect/deploy.py kubernetes|docker.

Makes or updates the pool `unveil-<kind>` from `<kind>-job.json`, sets the GPU slots, deploys, applies the automations;
may be done again at any time. Reads PREFECT_API_URL, PREFECT_API_AUTH_STRING, UNVEIL_IMAGE (the image of a flow run),
POOL_DEFAULTS (JSON: defaults of the template's variables) and GPU_SLOTS (flow runs that run the model at once).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

_HERE = Path(__file__).parent
ROOT = _HERE.parents[1]
POOLS = ("docker", "kubernetes")
#: Where the image holds the repository.
_CHECKOUT = "/opt/unveil"


def variant(kind: str) -> dict[str, Any]:
    """Return prefect.yaml for a pool of containers."""
    document: dict[str, Any] = yaml.safe_load((ROOT / "prefect.yaml").read_text("utf-8"))
    document.pop("definitions", None)
    document["pull"] = [{"prefect.deployments.steps.set_working_directory": {"directory": _CHECKOUT}}]
    for deployment in document["deployments"]:
        deployment["work_pool"] = {"name": f"unveil-{kind}", "job_variables": {"image": "{{ $UNVEIL_IMAGE }}"}}
    return document


def template(kind: str, defaults: dict[str, Any]) -> dict[str, Any]:
    """Return the base job template of a pool, with other defaults for its variables.

    Raises:
        KeyError: there is no such variable.
    """
    document: dict[str, Any] = json.loads((_HERE / f"{kind}-job.json").read_text("utf-8"))
    for name, value in defaults.items():
        document["variables"]["properties"][name]["default"] = value
    return document


def deploy(kind: str) -> None:
    """Make the pool, then what runs on it."""
    pool = template(kind, json.loads(os.environ.get("POOL_DEFAULTS", "{}")))
    with tempfile.TemporaryDirectory() as folder:
        job, deployments = Path(folder) / "job.json", Path(folder) / "prefect.yaml"
        job.write_text(json.dumps(pool), "utf-8")
        deployments.write_text(yaml.safe_dump(variant(kind), sort_keys=False), "utf-8")
        make = ["work-pool", "create", f"unveil-{kind}", "--type", kind, "--base-job-template", str(job), "--overwrite"]
        _run("prefect", *make)
        if slots := os.environ.get("GPU_SLOTS"):
            _run("prefect", "gcl", "update", "gpu", "--limit", slots)
        _run("prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(deployments))
    _run("flows.cli", "automations", "--apply")


def _run(module: str, *arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", module, *arguments], cwd=ROOT, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        sys.exit(f"{module} {arguments[0]} failed with status {done.returncode}")


if __name__ == "__main__":
    if sys.argv[1:] not in ([kind] for kind in POOLS):
        sys.exit(__doc__)
    if "UNVEIL_IMAGE" not in os.environ:
        sys.exit("UNVEIL_IMAGE is not set; it is the image of a flow run, e.g. registry.example/unveil:0.1.0.")
    try:
        deploy(sys.argv[1])
    except KeyError as error:
        sys.exit(f"POOL_DEFAULTS names {error}, which is not a variable of the pool's template.")
