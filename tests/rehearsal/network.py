"""Hosts on a bridge: a network namespace for each service, with the names of its networks, and no way out."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

_PREFIX = "unveil-"
#: The namespace with the bridge; a command in it is in the place of the host, which sees every service.
HOST = "unveil-host"
_SUBNET = "10.77.0"


@dataclass(slots=True)
class Network:
    """Addresses of the hosts by name."""

    addresses: dict[str, str] = field(default_factory=dict)

    def add(self, name: str) -> None:
        """Make a host."""
        number = len(self.addresses) + 2
        self.addresses[name] = f"{_SUBNET}.{number}"
        space, cable = f"{_PREFIX}{name}", f"unv{number}"
        _ip("netns", "add", space)
        _ip("-n", HOST, "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", space)
        _ip("-n", HOST, "link", "set", cable, "master", "bridge", "up")
        _ip("-n", space, "address", "add", f"{self.addresses[name]}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            _ip("-n", space, "link", "set", device, "up")

    def hosts_file(self, folder: Path, name: str, others: Iterable[str]) -> Path:
        """Write the names that a host knows: its own, and those on a network with it."""
        lines = ["127.0.0.1 localhost", f"{self.addresses[name]} {name}"]
        lines += [f"{self.addresses[other]} {other}" for other in others if other != name]
        path = folder / f"hosts-{name}"
        path.write_text("\n".join(lines) + "\n", "utf-8")
        return path


def within(name: str) -> list[str]:
    """Return the beginning of a command that is to run on a host."""
    return ["ip", "netns", "exec", name if name == HOST else f"{_PREFIX}{name}"]


@contextmanager
def network(names: Iterable[str]) -> Iterator[Network]:
    """Make the bridge and its hosts, and remove them."""
    _remove()
    try:
        _ip("netns", "add", HOST)
        _ip("-n", HOST, "link", "add", "bridge", "type", "bridge")
        _ip("-n", HOST, "address", "add", f"{_SUBNET}.1/24", "dev", "bridge")
        for device in ("lo", "bridge"):
            _ip("-n", HOST, "link", "set", device, "up")
        made = Network()
        for name in names:
            made.add(name)
        yield made
    finally:
        _remove()


def shared(services: Mapping[str, Mapping[str, object]], name: str) -> list[str]:
    """Return the services that are on a network with one."""
    mine = set(_networks(services[name]))
    return [other for other, service in services.items() if mine & set(_networks(service))]


def _networks(service: Mapping[str, object]) -> list[str]:
    given = service.get("networks", [])
    return [str(each) for each in given] if isinstance(given, list) else []


def _remove() -> None:
    for line in _ip("netns", "list").splitlines():
        if line.startswith(_PREFIX):
            _ip("netns", "delete", line.split()[0])


def _ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], capture_output=True, text=True, check=True).stdout
