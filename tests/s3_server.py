"""A real S3 service on loopback (moto's server) that remembers what it was asked and misbehaves on demand."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

from stac.io.s3 import S3Options, filesystem

#: Of a user who may do everything, and nothing of this machine's; the secret must turn up nowhere.
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "TESTKEY",
    "AWS_SECRET_ACCESS_KEY": "very-secret",
    "AWS_CONFIG_FILE": "/nowhere/config",
    "AWS_SHARED_CREDENTIALS_FILE": "/nowhere/credentials",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@dataclass(frozen=True, slots=True)
class Request:
    """One request as the service saw it."""

    method: str
    path: str
    headers: dict[str, str]

    @property
    def writes(self) -> bool:
        """Whether it changes something."""
        return self.method in ("PUT", "POST", "DELETE")


#: Told of each request; what it returns is answered instead, as (status, S3 error code).
Hook = Callable[[Request], tuple[str, str] | None]


@dataclass
class S3Server:
    """The service, while it runs."""

    url: str = ""
    requests: list[Request] = field(default_factory=list)
    hook: Hook | None = None
    #: Told of each request when it has been carried out.
    after: Callable[[Request], object] | None = None
    #: Requests one after the other: what S3 promises for one key, moto does not.
    _turn: threading.Lock = field(default_factory=threading.Lock)

    @property
    def options(self) -> S3Options:
        """How to reach it."""
        return S3Options(self.url, "us-east-1")

    def bucket(self, name: str, acl: str = "private") -> str:
        """Make a bucket and return its name."""
        filesystem(self.options, 10).call_s3("create_bucket", Bucket=name, ACL=acl)
        return name

    def upload(self, folder: Path, bucket: str, prefix: str, acl: str = "private") -> None:
        """Put all files of a folder below a prefix."""
        client = filesystem(self.options, 10)
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            client.put_file(str(path), f"{bucket}/{prefix}/{path.relative_to(folder)}", ACL=acl)

    def keys(self, bucket: str) -> dict[str, bytes]:
        """Return all objects of a bucket."""
        client = filesystem(self.options, 10)
        return {path.partition("/")[2]: client.cat_file(path) for path in client.find(bucket)}


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """Run the service on a free port."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    service, state = DomainDispatcherApplication(create_backend_app), S3Server()

    def answer(environment: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        headers = {k[5:].replace("_", "-").lower(): v for k, v in environment.items() if k.startswith("HTTP_")}
        request = Request(environment["REQUEST_METHOD"], environment["PATH_INFO"], headers)
        with state._turn:
            state.requests.append(request)
            refused = state.hook(request) if state.hook else None
            if refused is None:
                body = list(service(environment, start))
                if state.after:
                    state.after(request)
                return body
        status, code = refused
        start(status, [("Content-Type", "application/xml")])
        return [f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()]

    server = make_server("127.0.0.1", 0, answer, threaded=True)
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        thread.join(timeout=10)
        server.server_close()
