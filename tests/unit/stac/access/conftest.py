"""An S3 service and credentials for it, nothing of this machine's."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from stac.io.s3 import forget_clients
from tests.s3_server import S3Server, s3_server


@pytest.fixture(scope="session")
def _service() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {
        "AWS_ACCESS_KEY_ID": "TESTKEY",
        "AWS_SECRET_ACCESS_KEY": "very-secret",
        "AWS_CONFIG_FILE": "/nowhere/config",
        "AWS_SHARED_CREDENTIALS_FILE": "/nowhere/credentials",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def s3(_service: S3Server, credentials: None) -> Iterator[S3Server]:
    """The service with an empty memory."""
    _service.requests.clear()
    yield _service
    _service.hook = _service.after = None


@pytest.fixture
def changed_credentials(credentials: None) -> Iterator[None]:
    """For tests that change the credentials: clients made before and meanwhile are dropped."""
    forget_clients()
    yield
    forget_clients()
