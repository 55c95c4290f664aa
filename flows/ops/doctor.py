"""Check GPU, folders, services and credentials; say how to fix what is missing."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum, unique
from pathlib import Path

from flows.errors import InvalidSettings
from flows.models import mlflow_access
from flows.ops.serve import stac_browser
from flows.processing.publishing import catalog_of
from flows.progress import report_progress
from flows.services import prefect_server
from flows.settings import RunSettings
from stac.errors import StacError
from stac.io.secrets import redact, without_secret
from stac.search.static import SAMPLE

#: Seconds for each answer from the network.
_TIMEOUT_S = 3.0
_GIB = 2**30
#: Free space below which a run fails (the sample's products take about 50 MB) or should be watched, bytes.
_DISK_FAIL, _DISK_WARN = 0.25 * _GIB, 2 * _GIB


@unique
class Status(StrEnum):
    """How a check ended."""

    OK = "OK"
    #: Unveil works, with less speed or without one of its sources.
    WARN = "WARN"
    #: Runs will fail.
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    status: Status
    #: What was found.
    detail: str
    #: What to do, one sentence; empty when the status is OK.
    remedy: str = ""


def passed(name: str, detail: str) -> Check:
    """Return a check that found nothing wrong."""
    return Check(name, Status.OK, detail)


def warned(name: str, detail: str, remedy: str) -> Check:
    """Return a check that found something to know about."""
    return Check(name, Status.WARN, detail, remedy)


def failed(name: str, detail: str, remedy: str) -> Check:
    """Return a check that found what makes runs fail."""
    return Check(name, Status.FAIL, detail, remedy)


def examine(settings: RunSettings) -> list[Check]:
    """Return all checks for a run with `settings`, in the order to read them. Never raises for what it finds."""
    checks = {
        "compute": _compute,
        "output folder": lambda: _output(settings),
        "state folder": lambda: _folder("state folder", settings.state),
        "Prefect": _prefect,
        "MLflow": lambda: _mlflow(settings),
        "source": lambda: _source(settings.source),
        "STAC Browser": _browser,
        "S3 credentials": _s3,
        "Sentinel Hub credentials": _sentinel_hub,
    }
    return [_guarded(name, check) for name, check in checks.items()]


def _guarded(name: str, check: Callable[[], Check]) -> Check:
    report_progress(f"checking {name}")
    try:
        return check()
    except Exception as error:  # noqa: BLE001 - whatever breaks a check is what the doctor has found
        reason = redact(str(error)).splitlines()[0] if str(error) else ""
        remedy = "Install again with `make setup`; when that does not help, report this line."
        return failed(name, f"the check failed: {type(error).__name__}: {reason}", remedy)


def _prefect() -> Check:
    url = prefect_server.configured_api_url()
    if url is None:
        return passed("Prefect", "no API configured; each run starts a local server and stops it")
    problem = prefect_server.health_problem(url)
    shown = without_secret(url)
    if problem is None:
        return passed("Prefect", f"{shown} answers")
    if problem == prefect_server.REFUSED:
        return failed("Prefect", f"{shown} refuses the credentials", "Set PREFECT_API_AUTH_STRING or PREFECT_API_KEY.")
    remedy = "Start that server, correct PREFECT_API_URL, or run `prefect config unset PREFECT_API_URL`."
    return failed("Prefect", f"{shown} does not answer: {problem}", remedy)


def _mlflow(settings: RunSettings) -> Check:
    try:
        uri = mlflow_access.registry_uri(settings.state, settings.mlflow_uri)
    except InvalidSettings as error:
        return failed("MLflow", str(error), "Correct the setting mlflow_uri.")
    shown, problem = without_secret(uri), mlflow_access.problem_of(uri)
    if problem is not None:
        remedy = "Start that server, move that database away, or correct the setting mlflow_uri."
        return failed("MLflow", f"{shown} cannot be used: {problem}", remedy)
    database = mlflow_access.database_of(uri)
    if database is not None and not database.exists():
        return passed("MLflow", f"{shown}, created by the first run")
    return passed("MLflow", f"{shown} can be used")


def _source(source: str) -> Check:
    import httpx

    if source == SAMPLE:
        return passed("source", "the sample that ships, no network needed")
    if not source.startswith(("http://", "https://")):
        found = Path(source).exists()
        remedy = "Correct --source: `sample`, the URL of a STAC API, or the path of a catalog.json."
        return passed("source", source) if found else failed("source", f"{source} does not exist", remedy)
    shown = without_secret(source)
    try:
        status = httpx.get(source, timeout=_TIMEOUT_S, follow_redirects=True).status_code
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return failed(
            "source", f"{shown}: {error or type(error).__name__}", "Check the network, a proxy, and --source."
        )
    if status >= httpx.codes.BAD_REQUEST:
        return failed(
            "source", f"{shown}: HTTP status {status}", "Check --source, and whether it asks for credentials."
        )
    return passed("source", f"{shown} answers")


def _browser() -> Check:
    if stac_browser.cached_browser() is not None:
        return passed("STAC Browser", f"{stac_browser.browser_version()}, built and kept")
    node = stac_browser.node_version()
    if node is None:
        remedy = "Install Node.js 18 or later with npm; until then `unveil serve` prints a link to the public browser."
        return warned("STAC Browser", "not built, and Node.js 18 with npm was not found", remedy)
    return passed("STAC Browser", f"Node {node}; `unveil serve` builds it once (about two minutes)")


def _s3() -> Check:
    import botocore.session
    from botocore.exceptions import BotoCoreError

    name = "S3 credentials"
    remedy = (
        "Only needed for private or requester-pays buckets: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
        "AWS_PROFILE."
    )
    session = botocore.session.Session()
    # On a machine outside AWS the metadata service does not exist; one short question must do.
    session.set_config_variable("metadata_service_timeout", 1)
    session.set_config_variable("metadata_service_num_attempts", 1)
    try:
        credentials = session.get_credentials()
    except BotoCoreError as error:
        return warned(name, f"not usable: {error}", remedy)
    if credentials is None:
        return warned(name, "none found", remedy)
    return passed(name, f"present ({credentials.method})")


def _sentinel_hub() -> Check:
    from sentinelhub import SHConfig

    name = "Sentinel Hub credentials"
    remedy = "Only needed for Sentinel Hub and Copernicus Data Space sources: set SH_CLIENT_ID and SH_CLIENT_SECRET."
    given = bool(os.environ.get("SH_CLIENT_ID") and os.environ.get("SH_CLIENT_SECRET"))
    # Reading the configuration would create its file.
    if not given and not Path(SHConfig.get_config_location()).is_file():
        return warned(name, "none found", remedy)
    config = SHConfig()
    if config.sh_client_id and config.sh_client_secret:
        return passed(name, f"present for {without_secret(config.sh_base_url)}")
    return warned(name, "incomplete", remedy)


def _compute() -> Check:
    import torch

    if torch.cuda.is_available():
        return passed("compute", "; ".join(_gpu(index) for index in range(torch.cuda.device_count())))
    detail = f"no GPU in use; {torch.get_num_threads()} CPU threads of {os.cpu_count()}"
    if shutil.which("nvidia-smi"):
        remedy = "This machine has an NVIDIA driver: install a torch build with CUDA to use its GPU."
        return warned("compute", f"{detail}; torch {torch.__version__}", remedy)
    return passed("compute", detail)


def _gpu(index: int) -> str:
    import torch

    free, total = torch.cuda.mem_get_info(index)
    return f"{torch.cuda.get_device_name(index)}, {free / _GIB:.1f} of {total / _GIB:.1f} GiB free"


def _output(settings: RunSettings) -> Check:
    """Check that the catalog can be written, wherever it is."""
    if isinstance(settings.out, Path):
        return _folder("output folder", settings.out)
    try:
        catalog_of(settings).require_writable()
    except StacError as error:
        return failed("output folder", str(error), "Choose another --out, or give yourself the right to write there.")
    return passed("output folder", f"{settings.out} is writable")


def _folder(name: str, folder: Path) -> Check:
    """Check that `folder` can be made and written, and that there is room."""
    place = _nearest(folder.resolve())
    choose = "Choose another folder with --out or --state-dir."
    if not place.is_dir():
        return failed(name, f"{place} is not a folder", choose)
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        return failed(
            name, f"{place} cannot be written ({error.strerror})", f"Give yourself write permission. {choose}"
        )
    free = shutil.disk_usage(place).free
    detail = f"{folder} is writable, {free / _GIB:.1f} GiB free"
    if free < _DISK_FAIL:
        return failed(name, detail, f"Make room on this disk. {choose}")
    if free < _DISK_WARN:
        return warned(name, detail, f"Enough for the sample, not for many scenes: make room. {choose}")
    return passed(name, detail)


def _nearest(path: Path) -> Path:
    """Return `path` or the nearest of its parents that exists."""
    return next((p for p in (path, *path.parents) if p.exists()), path)
