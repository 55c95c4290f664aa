"""Build STAC Browser once from npm and keep it in the cache of the user.

The recipe is the folder `flows/ops/serve/browser`: `package.json` and `package-lock.json` pin STAC Browser,
`ol-stac` and every build tool; `basemaps.config.js` replaces the file of the same name of the
sources. A build is a pure function of these files, so the cache folder is named by their digest
and is never changed once it exists.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from flows.errors import ServiceUnavailable
from flows.progress import report_progress
from flows.services.process import kill_group, log_tail
from flows.services.state import locked
from stac.errors import PublishError

#: The public STAC Browser, for machines without Node.
PUBLIC_BROWSER = "https://radiantearth.github.io/stac-browser/#/external/"

#: Seconds that npm may take to install, and webpack to build (about 70 and 50 on two cores).
INSTALL_TIMEOUT_S = 900.0
BUILD_TIMEOUT_S = 600.0

#: Seconds that a second command waits for the build of the first.
LOCK_TIMEOUT_S = INSTALL_TIMEOUT_S + BUILD_TIMEOUT_S

_RECIPE = Path(__file__).parent / "browser"
_RECIPE_FILES = ("package.json", "package-lock.json", "basemaps.config.js")
_PACKAGE = "@radiantearth/stac-browser"
_OLDEST_NODE = 18

_INSTALL = (
    "ci",
    "--legacy-peer-deps",  # STAC Browser's Vue 2 tools disagree about their peers
    "--ignore-scripts",  # no package of the build needs its install script, so none may run one
    "--no-audit",
    "--no-fund",
    "--no-progress",
    "--fetch-retries=3",
    "--fetch-timeout=60000",
)
_BUILD = ("node_modules/@vue/cli-service/bin/vue-cli-service.js", "build", "--noSourceMaps")


def public_browser_link(catalog_url: str) -> str:
    """Return the address that opens the catalog at `catalog_url` (http, https) in the public STAC Browser."""
    return PUBLIC_BROWSER + catalog_url.removeprefix("https://")


def browser_version() -> str:
    """Return the version of STAC Browser that the recipe pins, e.g. `4.0.1`."""
    pins = json.loads((_RECIPE / "package.json").read_text(encoding="utf-8"))
    return str(pins["dependencies"][_PACKAGE])


def build_key() -> str:
    """Return the name of the cache folder: version of STAC Browser and digest of the recipe."""
    digest = hashlib.sha256()
    for name in _RECIPE_FILES:
        digest.update(name.encode() + b"\0" + (_RECIPE / name).read_bytes() + b"\0")
    return f"stac-browser-{browser_version()}-{digest.hexdigest()[:12]}"


def default_cache() -> Path:
    """Return the cache folder of the user: `$XDG_CACHE_HOME/unveil`, else `~/.cache/unveil`."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification: a relative path is invalid and must be ignored.
    base = Path(home) if Path(home).is_absolute() else Path.home() / ".cache"
    return base / "unveil"


def node_version() -> str | None:
    """Return the version of Node, e.g. `v18.20.4`; None where npm is missing, or Node is, or is older than 18."""
    if shutil.which("npm") is None:
        return None
    try:
        answer = subprocess.run(["node", "--version"], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.match(r"v(\d+)\.", answer.stdout)
    return answer.stdout.strip() if found and int(found[1]) >= _OLDEST_NODE else None


def cached_browser() -> Path | None:
    """Return the folder of a finished build in the cache of the user, or None."""
    target = default_cache() / build_key()
    return target if (target / "index.html").is_file() else None


def ensure_browser() -> Path | None:
    """Return the folder of a built STAC Browser; build it on the first call (about two minutes, needs npm).

    Returns:
        None where npm or Node 18 or later is missing: then show `public_browser_link`.

    Raises:
        ServiceUnavailable: the build fails, takes too long or cannot be stored; its log stays in the cache folder.
    """
    cache, built = default_cache(), cached_browser()
    if built is not None or node_version() is None:
        return built
    report_progress("STAC Browser is built once; a build of another process is waited for.")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with locked(cache / f"{build_key()}.lock", LOCK_TIMEOUT_S):
            return cached_browser() or _build_into(cache)
    except (OSError, PublishError) as error:
        raise ServiceUnavailable(
            f"STAC Browser cannot be stored in {cache} ({error}): "
            "make room there, or name another folder in XDG_CACHE_HOME."
        ) from error


def _build_into(cache: Path) -> Path:
    """Build in a temporary folder of `cache` and move the result into place at once."""
    key = build_key()
    for left_over in cache.glob(f".{key}-*"):  # of a killed build; the lock says that none is at work
        shutil.rmtree(left_over, ignore_errors=True)
    work = Path(tempfile.mkdtemp(prefix=f".{key}-", dir=cache))
    try:
        _build(work, cache / f"{key}.log")
        (work / "dist").replace(cache / key)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return cache / key


def _build(work: Path, log_file: Path) -> None:
    """Install the pinned packages in `work` and leave the built pages in `work/dist`."""
    log_file.unlink(missing_ok=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copyfile(_RECIPE / name, work / name)
    report_progress(f"Installing STAC Browser {browser_version()} with npm (once, about a minute).")
    _step(["npm", *_INSTALL], work, INSTALL_TIMEOUT_S, log_file)
    # The sources expect to be the root of the project: their styles import ./node_modules/ol/ol.css.
    shutil.copytree(work / "node_modules" / _PACKAGE, work, dirs_exist_ok=True)
    shutil.copyfile(_RECIPE / "basemaps.config.js", work / "basemaps.config.js")
    report_progress("Building STAC Browser (once, about a minute).")
    _step(["node", *_BUILD], work, BUILD_TIMEOUT_S, log_file)
    if not (work / "dist" / "index.html").is_file():
        raise ServiceUnavailable(f"The build of STAC Browser left no index.html. See {log_file}.")


def _step(command: list[str], work: Path, timeout_s: float, log_file: Path) -> None:
    """Run one command in `work` with its output in the log; no child outlives this call."""
    with log_file.open("ab") as record:
        # A session of its own, so that npm's children can be ended with it.
        process = subprocess.Popen(
            command,
            cwd=work,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=record,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    what = f"did not finish within {timeout_s:.0f} s"
    try:
        with contextlib.suppress(subprocess.TimeoutExpired):
            if process.wait(timeout=timeout_s) == 0:
                return
            what = f"ended with status {process.returncode}"
    finally:
        kill_group(process)
    raise ServiceUnavailable(
        f"The build of STAC Browser failed: `{command[0]} {command[1]}` {what}{log_tail(log_file)}"
    )


def _environment() -> dict[str, str]:
    """Return the environment of a build step: that of the user, without questions and update notices."""
    quiet = {"CI": "true", "NO_UPDATE_NOTIFIER": "1", "BROWSERSLIST_IGNORE_OLD_DATA": "1", "NO_COLOR": "1"}
    # Settings of a build that some shells carry (SB_catalogUrl ...) would end up in the cached pages.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("SB_")}
    return inherited | quiet | {"NODE_ENV": "production"}
