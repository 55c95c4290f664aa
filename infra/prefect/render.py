"""Generate the deployments for container pools from prefect.yaml: python infra/prefect/render.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

_HERE = Path(__file__).parent
SOURCE = _HERE.parents[1] / "prefect.yaml"
POOLS = ("docker", "kubernetes")
_HEADER = "# Generated from prefect.yaml by `python infra/prefect/render.py`; see README.md here.\n"
#: Where the image holds the repository.
_CHECKOUT = "/opt/unveil"


def variant(kind: str) -> str:
    """Return the text of `<kind>.yaml`."""
    document: dict[str, Any] = yaml.safe_load(SOURCE.read_text("utf-8"))
    document.pop("definitions", None)
    document["pull"] = [{"prefect.deployments.steps.set_working_directory": {"directory": _CHECKOUT}}]
    for deployment in document["deployments"]:
        deployment["work_pool"] = {"name": f"unveil-{kind}", "job_variables": {"image": "{{ $UNVEIL_IMAGE }}"}}
    # Values that were shared by anchors become copies.
    return _HEADER + yaml.safe_dump(json.loads(json.dumps(document)), sort_keys=False, width=120)


def main() -> None:
    """Write all variants beside this file."""
    for kind in POOLS:
        (_HERE / f"{kind}.yaml").write_text(variant(kind), "utf-8")


if __name__ == "__main__":
    main()
