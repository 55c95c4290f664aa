"""Reading STAC documents from disk or a web server, with time-outs and bounded, jittered retries."""

from __future__ import annotations

import json
from http import HTTPStatus
from pathlib import Path
from typing import Any

from pystac_client.exceptions import APIError
from pystac_client.stac_api_io import StacApiIO
from urllib3.util import Retry

from stac.errors import SourceUnavailable, StacError, UnreadableCatalog
from stac.sources.hrefs import is_remote

#: Answers that may be better a moment later.
_PASSING = (408, 425, 429, 500, 502, 503, 504)
_RETRIES = 4
#: Longest wait a server may ask for, seconds.
_LONGEST_WAIT_S = 60


def web_io(timeout_s: float) -> StacApiIO:
    """Return pystac-client's reader with a time-out per request and retries.

    `Retry-After` is honoured up to a minute. Searches are POST requests that change nothing, so they are
    tried again like GET.
    """
    retry = Retry(
        total=_RETRIES,
        backoff_factor=0.3,
        backoff_jitter=0.5,
        status_forcelist=_PASSING,
        allowed_methods=None,
        retry_after_max=_LONGEST_WAIT_S,
        raise_on_status=False,
    )
    return StacApiIO(timeout=timeout_s, max_retries=retry)


def refused(location: str, error: APIError) -> StacError:
    """Return what an API error means: `SourceUnavailable` when it may pass, else `UnreadableCatalog`."""
    status = getattr(error, "status_code", None)
    if status is None:
        return SourceUnavailable(
            f"{location} does not answer ({_short(error)}); check the address and try again later."
        )
    phrase = f"{status} {HTTPStatus(status).phrase}" if status in set(HTTPStatus) else str(status)
    if status in _PASSING:
        return SourceUnavailable(f"{location} answers {phrase}, also after {_RETRIES} retries; try again later.")
    return UnreadableCatalog(f"{location} answers {phrase}; check the address and the access rights.")


def _short(error: Exception) -> str:
    """Return the innermost reason, without memory addresses and connection pools."""
    text = str(error)
    return text.rsplit("Caused by ", 1)[-1].rsplit(": ", 1)[-1].strip("()'\" ")[:200]


class Documents:
    """Reads JSON documents by absolute path or URL."""

    def __init__(self, timeout_s: float) -> None:
        self.web = web_io(timeout_s)

    def read(self, href: str) -> dict[str, Any]:
        """Return the JSON object at an absolute path or URL.

        Raises:
            UnreadableCatalog: the file is missing, is no JSON, or holds no object.
            SourceUnavailable: the server does not answer or refuses for a passing reason.
        """
        try:
            text = self.web.request(href) if is_remote(href) else Path(href).read_text("utf-8")
            document = json.loads(text)
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
