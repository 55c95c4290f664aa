"""Checks of the services and credentials that a run can use. Secrets are looked for, never shown."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from flows.errors import InvalidSettings
from flows.models import mlflow_access
from flows.services import prefect_server
from flows.services.checks import Check, failed, passed, warned
from flows.services.prefect_server import without_credentials
from flows.settings import SAMPLE, RunSettings
from flows.viewer import stac_browser

#: Seconds for each answer from the network.
TIMEOUT_S = 3.0


def service_checks(settings: RunSettings) -> Mapping[str, Callable[[], Check]]:
    """Return the checks by name; none is run yet."""
    return {
        "Prefect": _prefect,
        "MLflow": lambda: _mlflow(settings),
        "source": lambda: _source(settings.source),
        "STAC Browser": _browser,
        "S3 credentials": _s3,
        "Sentinel Hub credentials": _sentinel_hub,
    }


def _prefect() -> Check:
    url = prefect_server.configured_api_url()
    if url is None:
        return passed("Prefect", "no API configured; each run starts a local server and stops it")
    problem = prefect_server.health_problem(url, TIMEOUT_S)
    shown = without_credentials(url)
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
    shown, problem = without_credentials(uri), mlflow_access.problem_of(uri)
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
    shown = without_credentials(source)
    try:
        status = httpx.get(source, timeout=TIMEOUT_S, follow_redirects=True).status_code
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
    tools = stac_browser.find_tools()
    if tools is None:
        remedy = "Install Node.js 18 or later with npm; until then `unveil serve` prints a link to the public browser."
        return warned("STAC Browser", "not built, and Node.js 18 with npm was not found", remedy)
    answer = subprocess.run([tools.node, "--version"], capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    return passed("STAC Browser", f"Node {answer.stdout.strip()}; `unveil serve` builds it once (about two minutes)")


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
        return passed(name, f"present for {without_credentials(config.sh_base_url)}")
    return warned(name, "incomplete", remedy)
