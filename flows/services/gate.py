"""ASGI middleware in front of a control plane: the Host and Origin of a request, and a token, are checked first.

A web page can send requests to loopback: from its own origin, or, once its name resolves to 127.0.0.1 (DNS rebinding),
as if it were the server itself. The first is seen by `Origin`, the second by `Host`. Only the standard library is used:
it is imported without the rest of Unveil.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Awaitable, Callable, Collection, Iterable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_MISDIRECTED, _FORBIDDEN, _UNAUTHORIZED = 421, 403, 401
_POLICY_VIOLATION = 1008


class Gate:
    """Passes on what comes from an allowed host and origin, and with the token where there is one."""

    def __init__(
        self, app: App, *, hosts: Collection[str] = (), token: str | None = None, open_paths: Iterable[str] = ()
    ) -> None:
        """Wrap an app.

        Args:
            app: what is protected.
            hosts: values of `Host` that are answered, `NAME:PORT`; empty for all. A page may come from these alone.
            token: bearer token of requests that do more than read; None for no check.
            open_paths: paths of health checks, answered to everybody.
        """
        self._app, self._token = app, token
        self._hosts = frozenset(host.lower() for host in hosts)
        self._origins = {f"{scheme}://{host}" for host in self._hosts for scheme in ("http", "https")}
        self._open = frozenset(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        refusal = self._refusal(scope)
        if refusal is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION})
        else:
            await _answer(send, *refusal)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        """Return status and sentence of a request that is refused, None for one that may pass."""
        if scope["type"] not in ("http", "websocket"):
            return None
        if scope["type"] == "http" and scope["method"] in ("GET", "HEAD") and scope["path"] in self._open:
            return None
        headers = _headers(scope)
        if self._hosts:
            hosts, origins = headers.get("host", []), headers.get("origin", [])
            if len(hosts) != 1 or hosts[0] not in self._hosts:
                return _MISDIRECTED, "This server does not answer under that Host; see --allowed-hosts."
            if any(origin not in self._origins for origin in origins):
                return _FORBIDDEN, "Requests of pages from other origins are refused."
        if self._token is not None and not _only_reads(scope) and not self._holds_token(headers):
            return _UNAUTHORIZED, "A bearer token is needed."
        return None

    def _holds_token(self, headers: dict[str, list[str]]) -> bool:
        given = headers.get("authorization", [""])[0]
        scheme, _, value = given.partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(value.encode(), (self._token or "").encode())


def _only_reads(scope: Scope) -> bool:
    """Return whether a request to a STAC API changes nothing; searches may be posted."""
    return scope["method"] in ("GET", "HEAD", "OPTIONS") or (scope["method"], scope["path"]) == ("POST", "/search")


def _headers(scope: Scope) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in scope["headers"]:
        key = name.decode("latin-1").lower()
        text = value.decode("latin-1")
        found.setdefault(key, []).append(text if key == "authorization" else text.lower())
    return found


async def _answer(send: Send, status: int, sentence: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"x-content-type-options", b"nosniff")]
    if status == _UNAUTHORIZED:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": sentence.encode()})


def transactions_api() -> App:
    """Return the STAC API that writes (stac-fastapi-pgstac), by those who bring UNVEIL_INDEX_TOKEN."""
    from stac_fastapi.pgstac.app import create_app

    token = os.environ.get("UNVEIL_INDEX_TOKEN")
    if not token:
        raise SystemExit("UNVEIL_INDEX_TOKEN is not set: the API that writes is never open to everybody.")
    return Gate(create_app(), token=token)
