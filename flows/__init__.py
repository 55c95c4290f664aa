"""When things run: Prefect flows and tasks, the work ledger, settings and the `unveil` command."""

__version__ = "0.1.0"
