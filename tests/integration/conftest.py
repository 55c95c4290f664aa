"""What several integration tests stand on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from stac.io.s3 import forget_clients
from tests.s3_server import S3Server, s3_server

#: Of a user who may do everything; the secret must turn up nowhere.
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "TESTKEY", "AWS_SECRET_ACCESS_KEY": "very-secret", "AWS_EC2_METADATA_DISABLED": "1"}


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """An S3 service and credentials for it. Its buckets outlive it in this process: take names of your own."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    forget_clients()
    with s3_server() as server:
        yield server
    forget_clients()
