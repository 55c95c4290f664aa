"""When things run: Prefect flows and tasks, the work ledger, settings and the `unveil` command."""

import os

__version__ = "0.1.0"

# Before torch loads OpenMP: its threads otherwise spin for milliseconds while they wait, and on a busy machine a tile
# takes ten times longer. A short spin costs an idle machine nothing; sleeping at once would cost it a third.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
# GDAL keeps a twentieth of the memory of the machine by default; scenes are read once, so little is enough.
os.environ.setdefault("GDAL_CACHEMAX", "256")
