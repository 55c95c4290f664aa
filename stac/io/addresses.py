"""Which hosts may be asked: those on the internet, and those that the user named.

A catalog is data from outside, and what it links to is asked by this machine, which may be inside a network that the
catalog's author cannot enter. So a host is looked up, every address it has is checked, and the connection is checked
again once it stands and before anything is sent: a name may mean something else a moment later (DNS rebinding).
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import threading
from collections.abc import Collection, Iterable
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from stac.errors import SourceUnavailable, UnsafeHref

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

#: A name with two labels or more, whose last one is not a number in any notation.
_NAME = re.compile(
    r"(?=.{1,253}$)([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)+(?!0x)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII
)
_INSIDE_NAMES = (".localhost", ".local", ".internal", ".intranet", ".lan", ".home", ".corp", ".arpa")
_NAT64 = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("64:ff9b:1::/48"))
#: No server listens there.
_NOWHERE = "http://127.0.0.1:1"
_LOCK = threading.Lock()


def is_web(href: str) -> bool:
    """Return whether an href is of http or https."""
    return href.lower().startswith(("http://", "https://"))


def host_of(url: str) -> str:
    """Return the host of an address in lower case, without brackets and a last dot; empty where there is none."""
    try:
        return (urlsplit(url).hostname or "").rstrip(".").lower()
    except ValueError:
        return ""


def check_address(url: str, named: Collection[str] = ()) -> None:
    """Do nothing where an address is written as one on the internet; nothing is looked up.

    Args:
        url: of http or https.
        named: hosts that the user named, which may be anywhere.

    Raises:
        UnsafeHref: it is an address inside this network, or its host is written in a way that hides what it is.
    """
    host = host_of(url)
    if host in named:
        return
    literal = _literal(host)
    if literal is not None:
        if not is_public(literal):
            raise UnsafeHref(f"{host} is an address inside this network; name it in allow_hosts if that is wanted.")
    elif not _NAME.fullmatch(host) or host.rpartition(".")[2].isdecimal() or host.endswith(_INSIDE_NAMES):
        raise UnsafeHref(
            f"{host!r} may be an address inside this network: write the host's name in full and in ASCII, or name it "
            "in allow_hosts."
        )


def look_up(url: str, named: Collection[str] = ()) -> list[IPAddress]:
    """Return the addresses of a URL's host, all of them checked; none where a proxy looks it up.

    Raises:
        UnsafeHref: one of them is inside this network.
        SourceUnavailable: the host is not known.
    """
    check_address(url, named)
    host, parts = host_of(url), urlsplit(url)
    if behind_proxy(url):
        return []
    try:
        port = parts.port or {"http": 80, "https": 443}[parts.scheme.lower()]
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError, ValueError, KeyError) as error:
        raise SourceUnavailable(f"The host {host} is not known ({error}); check the address, or try again.") from error
    addresses = list(dict.fromkeys(ipaddress.ip_address(str(each[4][0]).partition("%")[0]) for each in found))
    if host not in named:
        require_public(host, addresses)
    return addresses


def require_public(host: str, addresses: Iterable[IPAddress]) -> None:
    """Raise `UnsafeHref` when one of a host's addresses is inside this network."""
    for address in addresses:
        if not is_public(address):
            raise UnsafeHref(f"{host} is at {address}, inside this network; name it in allow_hosts if that is wanted.")


def is_public(address: IPAddress) -> bool:
    """Return whether an address is on the internet, also the IPv4 address that one of IPv6 stands for."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or _translated(address)
        if inner is not None:
            return is_public(inner)
        if address.teredo is not None or address.is_site_local or int(address) < 1 << 32:
            return False
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


def pinned(url: str, named: Collection[str] = ()) -> tuple[str, str]:
    """Return the address that GDAL is given and the headers that belong to it; the host has been looked up and checked.

    Over http the name is replaced by the address that was checked. Over https the server's certificate has to be that
    of the name, so no host inside this network can stand in for it.

    Raises:
        UnsafeHref: the host is inside this network.
        SourceUnavailable: the host is not known.
    """
    addresses, host, parts = look_up(url, named), host_of(url), urlsplit(url)
    plain = url.replace(" ", "%20")
    if not addresses or host in named or parts.scheme.lower() != "http" or _literal(host) is not None:
        return plain, ""
    login, at, place = parts.netloc.rpartition("@")
    _, colon, port = place.partition(":")
    numeric = f"[{addresses[0]}]" if addresses[0].version == 6 else str(addresses[0])
    netloc = f"{login}{at}{numeric}{colon}{port}"
    return urlsplit(plain)._replace(netloc=netloc).geturl(), f"Host: {place}"


def behind_proxy(url: str) -> bool:
    """Return whether a proxy of the environment is asked: it decides what may be reached, and looks names up."""
    parts = urlsplit(url)
    return parts.scheme.lower() in getproxies() and not proxy_bypass(host_of(url))


def _literal(host: str) -> IPAddress | None:
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None


def _translated(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """Return the IPv4 address that a NAT64 gateway would ask."""
    if any(address in network for network in _NAT64):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return None


def gdal_settings(url: str) -> dict[str, str]:
    """Return GDAL's settings that let it ask the host of a URL, and no other one that a server may send it to.

    GDAL follows redirections and has no option against it. So it is given a proxy that does not exist, and the
    checked hosts are those that are asked without a proxy. A proxy of the environment does its own checks.
    """
    if behind_proxy(url):
        return {}
    host = host_of(url)
    with _LOCK:
        listed = os.environ.get("no_proxy", "")
        if host not in listed.split(","):
            os.environ["no_proxy"] = f"{listed},{host}".lstrip(",")
    return {"GDAL_HTTP_PROXY": _NOWHERE}
