"""The services of infra/compose in the image's root: user, read-only root, mounts, names, rights, as they stand.

What is not ours has a stand-in of this machine on the same host and port: PostgreSQL, an S3 service, Prometheus.
"""

from __future__ import annotations

import os
import secrets
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.containers import FOLDER, interpolated, required, services
from tests.prefect_service import poll
from tests.rehearsal.network import Network, shared, within
from tests.rehearsal.root import Image, bind, devices, mounted, namespace

_TMPFS = "rw,nosuid,nodev,noexec,mode=1777"  # Docker's default
_UNCONFINED = ("read_only", "cap_drop")


@dataclass(slots=True)
class Stack:
    """Starts and stops services, and runs commands in them."""

    state: Path
    home: Path
    image: Image
    network: Network
    variables: Mapping[str, str]
    #: How to start what is no image of ours: a command that runs on the service's host.
    stand_ins: Mapping[str, Callable[[Stack], list[str]]]
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    said: Callable[[str], None] = print

    def up(self, name: str, seconds: float = 900) -> None:
        """Start a service after what it depends on; wait until it is healthy, or has done its work."""
        service = services()[name]
        for other in service.get("depends_on", {}):
            if other not in self.running:
                self.up(other)
        began = time.monotonic()
        self.running[name] = self.start(name)
        if service.get("restart") == "no":
            status = self.running[name].wait(seconds)
            assert status == 0, f"{name} ended with {status}: {self.tail(name)}"
            self.said(f"{name}: done in {time.monotonic() - began:.0f} s")
            return
        poll(lambda: self.healthy(name) or None, f"{name} is not healthy: {self._log(name)}", seconds)
        self.said(f"{name}: healthy after {time.monotonic() - began:.0f} s")

    def healthy(self, name: str) -> bool:
        """Run the service's own health check in it."""
        assert self.running[name].poll() is None, self.tail(name)
        kind, *check = services()[name]["healthcheck"]["test"]
        if name in self.stand_ins:
            return subprocess.run([*within(name), "sh", "-c", _CHECKS[name]], capture_output=True).returncode == 0
        assert kind == "CMD", name
        return self.inside(name, check).returncode == 0

    def inside(self, name: str, command: list[str], seconds: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a command in a running service, as `docker compose exec` does."""
        target = str(self.running[name].pid)
        words = ["nsenter", f"--target={target}", "--mount", "--net", "--root", f"--wdns={self.image.folder}"]
        command = [*words, *_confined(services()[name]["user"]), *self._environment(name), *command]
        return subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)

    def stop(self) -> dict[str, int]:
        """Send SIGTERM to every service, the last one first; return how each ended."""
        ended = {}
        for name, process in reversed(self.running.items()):
            if services()[name].get("restart") == "no":
                continue
            assert process.poll() is None, f"{name} ended by itself: {self.tail(name)}"
            process.terminate()
            try:
                ended[name] = process.wait(70)
            except subprocess.TimeoutExpired:
                ended[name] = -signal.SIGKILL
            self._kill(process)
        self.running.clear()
        return ended

    def kill(self) -> None:
        """End whatever is left."""
        for process in self.running.values():
            self._kill(process)

    def start(self, name: str) -> subprocess.Popen[bytes]:
        """Start a service on its host."""
        host = services()[name].get("network_mode", name).removeprefix("service:")
        command = self.stand_ins[name](self) if name in self.stand_ins else namespace(self._script(name, host))
        with self._log(name).open("ab") as log:
            return subprocess.Popen(
                [*within(host), *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                cwd=self.home,
            )  # fmt: skip

    def _script(self, name: str, host: str) -> str:
        """Return what mounts the service's root and becomes its command."""
        service = services()[name]
        assert all(service[each] for each in _UNCONFINED), name
        known = self.network.hosts_file(self.home, host, shared(services(), host))
        lines = ["UPPER=/run/unveil-upper; mkdir -p $UPPER; mount -t tmpfs tmpfs $UPPER; mkdir $UPPER/u $UPPER/w"]
        lines += [mounted(self.state, self.image.layers, "upperdir=$UPPER/u,workdir=$UPPER/w"), *devices()]
        lines.append(bind(str(known), "/etc/hosts", "ro"))
        for each in service.get("tmpfs", []):
            path, _, options = each.partition(":")
            given = ",".join([_TMPFS, *(["exec"] if "exec" in options.split(",") else [])])
            lines.append(f"mkdir -p $ROOT{path} && mount -t tmpfs -o {given} tmpfs $ROOT{path}")
        lines += [self._volume(volume) for volume in service.get("volumes", [])]
        lines.append("mount -o remount,ro $ROOT; cd /")
        command = [*_confined(service["user"]), *self._environment(name), *self._command(service)]
        shown = " ".join(shlex.quote(word) for word in command)
        lines.append(f"exec chroot $ROOT sh -c {shlex.quote(f'cd {self.image.folder} && exec {shown}')}")
        return "\n".join(lines)

    def _volume(self, volume: str) -> str:
        source, target, *how = self._said(volume).split(":")
        if source.startswith("."):
            return bind(str((FOLDER / source).resolve()), target, "ro")
        kept = self.home / "volumes" / source
        new = not kept.exists()
        kept.mkdir(parents=True, exist_ok=True)
        # A new volume takes owner and mode from the image's folder.
        owner = f'chown --reference="$ROOT{target}" {kept} && chmod --reference="$ROOT{target}" {kept}\n' if new else ""
        return owner + bind(str(kept), target, "ro" if "ro" in how else "rw")

    def _command(self, service: Mapping[str, Any]) -> list[str]:
        return [self._said(word) for word in service.get("command", self.image.command)]

    def environment(self, name: str) -> dict[str, str]:
        """Return the environment of a service: what the image sets, what the file says."""
        said = {key: self._said(str(value)) for key, value in services()[name].get("environment", {}).items()}
        kept = {key: value for key, value in self.image.environment.items() if not key.startswith("ARG ")}
        return kept | said

    def _environment(self, name: str) -> list[str]:
        return ["env", "-i", *(f"{key}={value}" for key, value in self.environment(name).items())]

    def _said(self, text: str) -> str:
        return interpolated(text, self.variables)

    def _log(self, name: str) -> Path:
        return self.home / f"{name}.log"

    def tail(self, name: str) -> str:
        """Return the end of a service's log."""
        return self._log(name).read_text("utf-8", "replace")[-3000:]

    @staticmethod
    def _kill(process: subprocess.Popen[bytes]) -> None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        process.wait()


def _confined(user: str) -> list[str]:
    uid, gid = user.split(":")
    limits = ["--no-new-privs", "--inh-caps=-all", "--bounding-set=-all"]
    return ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups", *limits]


#: Health of the stand-ins, whose images have other programs.
_CHECKS = {
    "database": "pg_isready --host 127.0.0.1 --username unveil --dbname postgres",
    "s3": "python3 -c \"import socket; socket.create_connection(('127.0.0.1', 8333), 2)\"",
    "prometheus": "python3 -c \"import socket; socket.create_connection(('127.0.0.1', 9090), 2)\"",
}


def secrets_of_all() -> dict[str, str]:
    """Return a value of its own for every variable that the files require."""
    values = {name: secrets.token_hex(12) for name in required()}
    return values | {"UNVEIL_PREFECT_LOGIN": f"ops:{values['UNVEIL_PREFECT_LOGIN']}"}
