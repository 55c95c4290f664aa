"""pgstac's database, loaded in bulk with its own loader and read back.

Loads that report success and drop items, and deadlocks of loaders at the same time, are known of pgstac
(https://github.com/stac-utils/pgstac/issues/285, https://github.com/stac-utils/pgstac/issues/211): every load is
counted and compared, and what a lock cut off is tried again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any, TypeVar

import psycopg
from psycopg import errors
from psycopg.conninfo import make_conninfo
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from stac.catalog.indexes.base import index_label, index_secret, require_same
from stac.catalog.tree import Document
from stac.errors import IndexNotUpdated, IndexRefused, IndexUnavailable, InvalidQuery, MissingExtra
from stac.io.http import RetryPolicy

_Result = TypeVar("_Result")
#: Another session was in the way; nothing was written.
_IN_THE_WAY = (errors.DeadlockDetected, errors.SerializationFailure, errors.LockNotAvailable, errors.ObjectInUse)
_ATTEMPTS = 8
#: Longest wait for a lock and for one statement, seconds.
_LOCK_S, _STATEMENT_S = 60, 600
_REFUSED = (errors.InsufficientPrivilege, errors.InvalidAuthorizationSpecification, errors.ReadOnlySqlTransaction)
_NOT_THERE = (errors.UndefinedTable, errors.UndefinedFunction, errors.InvalidSchemaName)


class PgstacIndex:
    """One connection to a database with pgstac."""

    def __init__(self, address: str, retry_policy: RetryPolicy) -> None:
        """Connect, and check that the database has the pgstac that the loader knows.

        Raises:
            MissingExtra: pypgstac is not installed.
            InvalidQuery: the address is not understood.
            IndexNotUpdated: the database does not answer, refuses, or has no pgstac of this version.
        """
        self.label, self._secret = index_label(address), index_secret(address)
        self._loading = _loader_module()
        with self._explained():
            self._connection = self._connect(address, retry_policy)
        try:
            self._require_version()
        except BaseException:
            self.close()
            raise
        self._loader = self._loading.Loader(_database(self._connection))

    def put(self, collection: Document, items: Sequence[Document]) -> None:
        """Load a collection and items, then count and compare what the database holds."""
        self._retried(lambda: self._load_collection(collection))
        if items:
            self._retried(lambda: self._loader.load_items(iter(items), self._loading.Methods.upsert))
            held = self._items(str(collection["id"]), [str(item["id"]) for item in items])
            require_same(self.label, items, held.get)

    def remove(self, collection_id: str, item_ids: Iterable[str]) -> None:
        """Delete items in one statement."""
        ids = list(item_ids)
        statement = "DELETE FROM items WHERE collection = %s AND id = ANY(%s)"
        if ids:
            self._retried(lambda: self._connection.execute(statement, (collection_id, ids)))

    def works(self, collection_id: str) -> dict[str, str]:
        """Return the work id of every item of a collection by item id."""
        statement = "SELECT id, content->'properties'->>'unveil:work_id' FROM items WHERE collection = %s"
        rows = self._retried(lambda: self._connection.execute(statement, (collection_id,)).fetchall())
        return {str(item_id): work_id or "" for item_id, work_id in rows}

    def close(self) -> None:
        """End the session."""
        self._connection.close()

    def _connect(self, address: str, retry_policy: RetryPolicy) -> psycopg.Connection[Any]:
        options = f"-c search_path=pgstac,public -c lock_timeout={_LOCK_S}s -c statement_timeout={_STATEMENT_S}s"
        waiting = max(2, round(retry_policy.timeout_s))
        try:
            wanted = make_conninfo(address, connect_timeout=waiting, options=options, application_name="unveil")
        except psycopg.ProgrammingError as error:
            raise InvalidQuery(f"{self.label} is not understood; write postgresql://USER@HOST/DATABASE.") from error
        return psycopg.connect(wanted, autocommit=True)

    def _require_version(self) -> None:
        from pypgstac import __version__

        row = self._retried(lambda: self._connection.execute("SELECT pgstac.get_version()").fetchone())
        found = str(row[0]) if row else ""
        if found.split(".")[:2] != __version__.split(".")[:2]:
            raise IndexNotUpdated(
                f"{self.label} has pgstac {found or 'of no version'}, but pypgstac here is {__version__}; "
                "run `pypgstac migrate` there, or install the version that fits."
            )

    def _load_collection(self, collection: Document) -> None:
        """Write the collection where it differs: publishers at the same time need not wait for each other then."""
        row = self._connection.execute("SELECT get_collection(%s)", (collection["id"],)).fetchone()
        if row is None or row[0] is None or row[0] != collection:
            self._loader.load_collections(iter([collection]), self._loading.Methods.upsert)
            row = self._connection.execute("SELECT get_collection(%s)", (collection["id"],)).fetchone()
            # Another publisher may have written it once more in between; it is looked at again when all is done.
            if row is None or row[0] is None:
                raise IndexNotUpdated(f"{self.label} accepted collection {collection['id']} but does not have it.")

    def _items(self, collection_id: str, ids: list[str]) -> dict[str, Document]:
        statement = "SELECT id, content_hydrate(items.*) FROM items WHERE collection = %s AND id = ANY(%s)"
        return dict(self._retried(lambda: self._connection.execute(statement, (collection_id, ids)).fetchall()))

    def _retried(self, work: Callable[[], _Result]) -> _Result:
        """Do something, again where another session was in the way, and explain what goes wrong."""
        retrying = Retrying(
            retry=retry_if_exception_type(_IN_THE_WAY),
            stop=stop_after_attempt(_ATTEMPTS),
            wait=wait_random_exponential(multiplier=0.1, max=5),
            reraise=True,
        )
        with self._explained():
            return retrying(work)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what the database says into one sentence of ours."""
        try:
            yield
        except (*_REFUSED, errors.InvalidPassword) as error:
            raise IndexRefused(
                f"{self.label} refuses ({self._reason(error)}); the role needs to be a member of pgstac_ingest, its "
                "password stands in PGPASSWORD or ~/.pgpass."
            ) from error
        except _NOT_THERE as error:
            raise IndexNotUpdated(
                f"{self.label} has no pgstac ({self._reason(error)}); run `pypgstac migrate` there."
            ) from error
        except errors.InsufficientResources as error:  # disk full, too many connections, out of memory
            raise IndexUnavailable(f"{self.label} has no room ({self._reason(error)}); see to its server.") from error
        except psycopg.OperationalError as error:
            raise _unavailable(self.label, self._reason(error)) from error
        except psycopg.Error as error:
            raise IndexNotUpdated(
                f"{self.label} did not take what it was given ({self._reason(error)}); its log says more."
            ) from error

    def _reason(self, error: Exception) -> str:
        """Return the first reason in what was said, without the password."""
        lines = str(error).strip().splitlines() or [type(error).__name__]
        text = lines[0].rpartition("failed: ")[2].strip()
        return text.replace(self._secret, "***") if self._secret else text


def _unavailable(label: str, reason: str) -> IndexNotUpdated:
    """Return what a failed connection means; servers report a wrong password as any other trouble."""
    if "authentication" in reason or "no password supplied" in reason or "does not exist" in reason:
        return IndexRefused(f"{label} refuses ({reason}); check user and database, and PGPASSWORD or ~/.pgpass.")
    return IndexUnavailable(f"{label} does not answer ({reason}); start it, or check the address, and try again.")


def _loader_module() -> Any:
    try:
        return import_module("pypgstac.load")
    except ImportError as error:
        raise MissingExtra(
            "Loading pgstac needs pypgstac; install it with `pip install 'unveil-eo[pgstac]'`."
        ) from error


def _database(connection: psycopg.Connection[Any]) -> Any:
    """Return pypgstac's view of a connection that is open: it opens none of its own, with other time-outs."""
    base = import_module("pypgstac.db").PgstacDB

    class Opened(base):  # type: ignore[misc, valid-type]
        def connect(self) -> psycopg.Connection[Any]:
            return connection

        def get_pool(self) -> None:
            raise psycopg.OperationalError("the connection broke")

    return Opened()
