"""When things run: Prefect flows and tasks, the work ledger, settings and the `unveil` command."""

import os

__version__ = "0.1.0"

# Before torch loads OpenMP: its threads otherwise spin while they wait, and a busy machine becomes ten times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
