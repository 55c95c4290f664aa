"""The MLflow server behind its own login: `python -m flows.services.mlflow_app --host 127.0.0.1 --port 5000 ...`.

The arguments are those of `mlflow server`. The login is MLflow's `basic-auth` app with one administrator, whose name is
MLFLOW_AUTH_ADMIN_USERNAME and whose password is MLFLOW_AUTH_ADMIN_PASSWORD, also when it has changed since last time.
More users are made through MLflow's API. They are kept in MLFLOW_BACKEND_STORE_URI.
"""

from __future__ import annotations

import os
import secrets
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

#: Checked passwords are remembered for a minute, as hashing is slow on purpose.
_SETTINGS = """[mlflow]
database_uri = {database}
default_permission = READ
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
auth_cache_ttl_seconds = 60
"""
_REQUIRED = ("MLFLOW_AUTH_ADMIN_USERNAME", "MLFLOW_AUTH_ADMIN_PASSWORD", "MLFLOW_BACKEND_STORE_URI")


def main(arguments: Sequence[str]) -> None:
    """Serve until a signal comes; exits with a sentence where no login is set."""
    missing = [name for name in _REQUIRED if not os.environ.get(name)]
    if missing:
        sys.exit(f"{missing[0]} is not set: the server is never open to everybody.")
    with tempfile.TemporaryDirectory(prefix="unveil-mlflow-") as folder:
        settings = Path(folder) / "auth.ini"
        database = os.environ["MLFLOW_BACKEND_STORE_URI"]
        settings.write_text(_SETTINGS.format(database=database.replace("%", "%%")), "utf-8")
        os.environ["MLFLOW_AUTH_CONFIG_PATH"] = str(settings)
        os.environ.setdefault("MLFLOW_FLASK_SERVER_SECRET_KEY", secrets.token_hex(32))  # signs forms of the pages
        _set_password(database)

        from mlflow.cli import cli

        cli(["server", "--app-name=basic-auth", *arguments])


def _set_password(database: str) -> None:
    """Give the administrator the password of now; MLflow would keep that of the first start."""
    from mlflow.server.auth.sqlalchemy_store import SqlAlchemyStore

    user, password = os.environ["MLFLOW_AUTH_ADMIN_USERNAME"], os.environ["MLFLOW_AUTH_ADMIN_PASSWORD"]
    store = SqlAlchemyStore()
    store.init_db(database)
    if store.has_user(user):
        store.update_user(user, password=password, is_admin=True)


if __name__ == "__main__":
    main(sys.argv[1:])
