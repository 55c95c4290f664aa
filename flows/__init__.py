"""When things run: Prefect flows and tasks, the work ledger, settings and the `unveil` command."""

import logging
import os
import sys

__version__ = "0.1.0"

# Before torch loads OpenMP: its threads otherwise spin for milliseconds while they wait, and on a busy machine a tile
# takes ten times longer. A short spin costs an idle machine nothing; sleeping at once would cost it a third.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
# Lines of our logger are kept with the run in whose context they are written.
_EXTRA = "PREFECT_LOGGING_EXTRA_LOGGERS"
if "unveil" not in os.environ.get(_EXTRA, "").split(","):
    os.environ[_EXTRA] = ",".join(filter(None, (os.environ.get(_EXTRA), "unveil")))
os.environ.setdefault("PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW", "ignore")
_log = logging.getLogger("unveil")
_log.setLevel(logging.INFO)
if "prefect.logging" in sys.modules:
    # In a worker's process Prefect was imported first and has read the variable already: do what it would have done.
    for _handler in logging.getLogger("prefect.extra").handlers:
        if _handler not in _log.handlers:
            _log.addHandler(_handler)
# A proxy of the environment is for other machines: services of ours answer on loopback.
if any(name.lower() in ("http_proxy", "https_proxy", "all_proxy") and os.environ[name] for name in os.environ):
    _direct = [*filter(None, (os.environ.get(name) for name in ("no_proxy", "NO_PROXY")))]
    os.environ |= dict.fromkeys(("no_proxy", "NO_PROXY"), ",".join([*_direct, "localhost,127.0.0.1,::1"]))
# GDAL keeps a twentieth of the memory of the machine by default; scenes are read once, so little is enough.
os.environ.setdefault("GDAL_CACHEMAX", "256")
