"""Reading STAC documents from disk or a web server."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

from pystac_client.exceptions import APIError
from pystac_client.stac_api_io import StacApiIO

from stac.access.locations import is_s3, s3_location
from stac.access.objects import Objects
from stac.access.s3 import S3Options
from stac.errors import SourceUnavailable, StacError, UnreadableCatalog
from stac.sources.hrefs import is_remote
from stac.sources.web.pace import DEFAULT_RATE
from stac.sources.web.patience import PASSING, Patience
from stac.sources.web.transport import PatientAdapter, patient_session

#: A longer file is no STAC document, bytes.
_LARGEST = 64 << 20


class CatalogIO(StacApiIO):
    """pystac-client's reader with time-outs, a pace, a total time and bounded retries.

    Searches are POST requests that change nothing, so they are tried again like GET.
    """

    def __init__(
        self, patience: Patience, per_second: float = DEFAULT_RATE, named: Collection[str] = frozenset()
    ) -> None:
        super().__init__(timeout=patience.timeout_s, max_retries=None)
        self._adapter = PatientAdapter(patience, per_second, named)
        self.session = patient_session(self._adapter)

    @contextmanager
    def bounded(self, what: str) -> Iterator[None]:
        """Bound the time of everything read while the context is open."""
        with self._adapter.bounded(what):
            yield


def refused(location: str, error: APIError) -> StacError:
    """Return what an API error means: `SourceUnavailable` when it may pass, else `UnreadableCatalog`."""
    if isinstance(error.__context__, StacError):
        return error.__context__
    status = getattr(error, "status_code", None)
    if status is None:
        return SourceUnavailable(
            f"{location} does not answer ({_short(error)}); check the address and try again later."
        )
    phrase = f"{status} {HTTPStatus(status).phrase}" if status in set(HTTPStatus) else str(status)
    if status in PASSING:
        return SourceUnavailable(f"{location} answers {phrase}, also after retries; try again later.")
    return UnreadableCatalog(f"{location} answers {phrase}; check the address and the access rights.")


def _short(error: Exception) -> str:
    """Return the innermost reason, without memory addresses and connection pools."""
    text = str(error)
    return text.rsplit("Caused by ", 1)[-1].rsplit(": ", 1)[-1].strip("()'\" ")[:200]


class Documents:
    """Reads JSON documents by absolute path or URL."""

    def __init__(
        self,
        patience: Patience,
        per_second: float = DEFAULT_RATE,
        s3: S3Options | None = None,
        named: Collection[str] = frozenset(),
    ) -> None:
        self.web = CatalogIO(patience, per_second, named)
        self._objects = Objects(s3 or S3Options(), patience.timeout_s)

    def read(self, href: str) -> dict[str, Any]:
        """Return the JSON object at an absolute path or URL.

        Raises:
            UnreadableCatalog: the file is missing, is no JSON, or holds no object.
            AccessRefused: its bucket does not exist or is denied.
            SourceUnavailable: the server does not answer or refuses for a passing reason.
        """
        try:
            document = json.loads(self._text(href))
        except APIError as error:
            raise refused(href, error) from error
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise UnreadableCatalog(f"{href} cannot be read ({reason}); give the path of a catalog.json.") from error
        except ValueError as error:
            raise UnreadableCatalog(f"{href} is not valid JSON ({error}); repair or remove the file.") from error
        except RecursionError as error:
            raise UnreadableCatalog(f"{href} is nested too deeply to be a STAC document.") from error
        if not isinstance(document, dict):
            raise UnreadableCatalog(f"{href} holds no JSON object, so it is no STAC document.")
        return document

    def _text(self, href: str) -> str | bytes:
        if is_s3(href):
            found = self._objects.read(s3_location(href))
            if found is None:
                raise UnreadableCatalog(f"{href} does not exist; give the address of a catalog.json.")
            return found
        if is_remote(href):
            return str(self.web.request(href))
        if (size := Path(href).stat().st_size) > _LARGEST:
            raise UnreadableCatalog(f"{href} holds {size >> 20} MiB; a STAC document has {_LARGEST >> 20} MiB at most.")
        return Path(href).read_text("utf-8")
