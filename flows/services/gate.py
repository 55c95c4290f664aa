"""ASGI middleware in front of a control plane: the Host and Origin of a request, and a token, are checked first.

A web page can send requests to loopback: from its own origin, or, once its name resolves to 127.0.0.1 (DNS rebinding),
as if it were the server itself. The first is seen by `Origin`, the second by `Host`.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Collection, Iterable

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

_MISDIRECTED, _FORBIDDEN, _UNAUTHORIZED = 421, 403, 401
_POLICY_VIOLATION = 1008


class Gate:
    """Passes on what comes from an allowed host and origin, and with the token where there is one."""

    def __init__(
        self, app: ASGIApp, *, hosts: Collection[str] = (), token: str | None = None, open_paths: Iterable[str] = ()
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
            status, sentence = refusal
            headers = {"x-content-type-options": "nosniff"}
            if status == _UNAUTHORIZED:
                headers["www-authenticate"] = "Bearer"
            await PlainTextResponse(sentence, status, headers)(scope, receive, send)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        """Return status and sentence of a request that is refused, None for one that may pass."""
        if scope["type"] not in ("http", "websocket"):
            return None
        if scope["type"] == "http" and scope["method"] in ("GET", "HEAD") and scope["path"] in self._open:
            return None
        headers = Headers(scope=scope)
        if self._hosts:
            hosts, origins = headers.getlist("host"), headers.getlist("origin")
            if len(hosts) != 1 or hosts[0].lower() not in self._hosts:
                return _MISDIRECTED, "This server does not answer under that Host; see --allowed-hosts."
            if any(origin.lower() not in self._origins for origin in origins):
                return _FORBIDDEN, "Requests of pages from other origins are refused."
        if self._token is not None and not _only_reads(scope) and not self._holds_token(headers):
            return _UNAUTHORIZED, "A bearer token is needed."
        return None

    def _holds_token(self, headers: Headers) -> bool:
        scheme, _, value = headers.get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(value.encode(), (self._token or "").encode())


def _only_reads(scope: Scope) -> bool:
    """Return whether a request to a STAC API changes nothing; searches may be posted."""
    return scope["method"] in ("GET", "HEAD", "OPTIONS") or (scope["method"], scope["path"]) == ("POST", "/search")


def transactions_api() -> ASGIApp:
    """Return the STAC API that writes (stac-fastapi-pgstac), by those who bring UNVEIL_INDEX_TOKEN."""
    from stac_fastapi.pgstac.app import create_app

    token = os.environ.get("UNVEIL_INDEX_TOKEN")
    if not token:
        raise SystemExit("UNVEIL_INDEX_TOKEN is not set: the API that writes is never open to everybody.")
    return Gate(create_app(), token=token)
