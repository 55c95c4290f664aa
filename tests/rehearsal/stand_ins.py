"""Programs of this machine in the place of images that are not ours, on the host and port of compose.yaml."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Callable

from tests.command import ROOT
from tests.containers import services
from tests.rehearsal.network import shared
from tests.rehearsal.root import namespace
from tests.rehearsal.stack import Stack
from tests.support.postgres import programs


def _database(stack: Stack) -> list[str]:
    """PostgreSQL as the official image's entry point starts it: owner, password, passwords for all who connect."""
    folder, found = stack.home / "volumes" / "database", programs()
    assert found is not None, "PostgreSQL is not installed"
    if not (folder / "PG_VERSION").exists():
        folder.mkdir(parents=True, exist_ok=True)
        shutil.chown(folder, "postgres", "postgres")
    secret = shlex.quote(stack.environment("database")["POSTGRES_PASSWORD"])
    script = f"""
    if [ ! -e /mnt/PG_VERSION ]; then
      printf %s {secret} >/tmp/password
      {found}/initdb -D /mnt -U unveil -A scram-sha-256 --pwfile /tmp/password -N
      echo 'host all all all scram-sha-256' >>/mnt/pg_hba.conf
    fi
    exec {found}/postgres -D /mnt -c listen_addresses='*' -c port=5432 -c unix_socket_directories=/tmp -c fsync=off"""
    user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "sh", "-ec", script]
    # Folders of its own, as in a container: no password is left on this machine.
    places = f"mount --bind {folder} /mnt; mount -t tmpfs tmpfs /tmp; cd /"
    return _as_host(stack, "database", f"{places}; exec {shlex.join(user)}")


def _s3(stack: Stack) -> list[str]:
    return _as_host(stack, "s3", f"exec {sys.executable} -m moto.server -H 0.0.0.0 -p 8333")


def _prometheus(stack: Stack) -> list[str]:
    folder = stack.home / "prometheus"
    (folder / "targets").mkdir(parents=True, exist_ok=True)
    for name, to in (("prometheus.yml", "."), ("rules.yml", "."), ("services.yml", "targets")):
        shutil.copy(ROOT / "infra" / "prometheus" / name, folder / to)
    files = f"--config.file={folder}/prometheus.yml --storage.tsdb.path={folder}/data"
    return _as_host(stack, "prometheus", f"exec prometheus {files} --web.listen-address=0.0.0.0:9090")


def _as_host(stack: Stack, name: str, script: str) -> list[str]:
    known = stack.network.hosts_file(stack.home, name, shared(services(), name))
    return namespace(f"mount --bind {known} /etc/hosts; {script}")


STAND_INS: dict[str, Callable[[Stack], list[str]]] = {"database": _database, "s3": _s3, "prometheus": _prometheus}
