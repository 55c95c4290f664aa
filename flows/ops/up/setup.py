"""What a Prefect server and a registry need before work begins; a process of its own, run by the supervisor.

`python -m flows.ops.up.setup PREFECT_YAML|- [--if-missing]` makes an empty catalog, work pool, GPU slot, shipped model;
then, with a file, its deployments and the automations, or only where the server lacks one of them. All of it may be
done again at any time. infra/compose runs it, too.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from stac.io.files import public_folder, write_json, writing


def main() -> None:
    """Set everything up; exits with status 1 and one sentence when that fails."""
    from flows.errors import KNOWN_ERRORS
    from flows.models.registry import Registry
    from flows.ops.automations import apply_automations
    from flows.ops.up.supervisor import SILENCE_S
    from flows.settings.loading import load_settings

    try:
        settings = load_settings()
        if isinstance(settings.out, Path):
            begin_catalog(settings.out)
        _prepare_server()
        Registry.of(settings).ensure_shipped()
        name, only_missing = sys.argv[1], "--if-missing" in sys.argv[2:]
        if name != "-" and not (only_missing and _is_deployed(Path(name))):
            _deploy(Path(name))
            apply_automations(SILENCE_S)
    except KNOWN_ERRORS as error:
        sys.exit(str(error))


def begin_catalog(out: Path) -> None:
    """Make an empty catalog where there is none, so that it can be served before the first run.

    Raises:
        DiskFull, NotWritable: the folder cannot be written.
    """
    root = out / "catalog.json"
    if root.exists():
        return
    from stac.catalog.documents import empty_root

    with writing(root):
        public_folder(out)
    write_json(root, empty_root(), public=True)


def _prepare_server() -> None:
    """Make the work pool and the GPU slot where they are missing; what an operator has changed stays."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectNotFound

    from flows.ops.up.supervisor import POOL
    from flows.running.tasks import ensure_gpu_limit

    with get_client(sync_client=True) as client:
        try:
            client.read_work_pool(POOL)
        except ObjectNotFound:
            client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))
    ensure_gpu_limit(1)


def _is_deployed(file: Path) -> bool:
    """Whether the server has every deployment of the file, in our pool: a pool that is deleted takes them out of it."""
    import yaml
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags

    from flows.ops.up.supervisor import POOL

    wanted = {each["name"] for each in yaml.safe_load(file.read_text("utf-8"))["deployments"]}
    ours = DeploymentFilter(tags=DeploymentFilterTags(all_=["unveil"]))
    with get_client(sync_client=True) as client:
        found = client.read_deployments(deployment_filter=ours)
    return wanted <= {each.name for each in found if each.work_pool_name == POOL}


def _deploy(file: Path) -> None:
    """Run `prefect deploy --all` in this process, which has imported the flows' libraries already."""
    from prefect.cli import app

    os.chdir(file.parent)
    sys.argv = ["prefect", "--no-prompt", "deploy", "--all", "--prefect-file", file.name]
    try:
        app()
    except SystemExit as end:
        if end.code:
            raise


if __name__ == "__main__":
    main()
