"""Generate the deployments for container pools from prefect.yaml: python -m infra.prefect.render."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

_HERE = Path(__file__).parent
SOURCE = _HERE.parents[1] / "prefect.yaml"
POOLS = ("docker", "kubernetes")
_HEADER = "# Generated from prefect.yaml by `python -m infra.prefect.render`; see README.md here.\n"
#: Where the image holds the repository.
_CHECKOUT = "/opt/unveil"


def variant(kind: str) -> str:
    """Return the text of `<kind>.yaml`."""
    document: dict[str, Any] = yaml.safe_load(SOURCE.read_text("utf-8"))
    document.pop("definitions", None)
    document["pull"] = [{"prefect.deployments.steps.set_working_directory": {"directory": _CHECKOUT}}]
    for deployment in document["deployments"]:
        deployment["work_pool"] = {"name": f"unveil-{kind}", "job_variables": {"image": "{{ $UNVEIL_IMAGE }}"}}
    return _HEADER + yaml.dump(document, Dumper=_Plain, sort_keys=False, width=120)


class _Plain(yaml.SafeDumper):
    """Repeats values instead of naming them."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def main() -> None:
    """Write all variants beside this file."""
    for kind in POOLS:
        (_HERE / f"{kind}.yaml").write_text(variant(kind), "utf-8")


if __name__ == "__main__":
    main()
