"""`unveil publish`: bring indexes up to date with a catalog."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli import options as o
from flows.cli.console import output, print_json, progress_bar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stac.indexes.following import Update


def publish(
    config: o.Config = None,
    out: o.Out = None,
    index: o.Index = None,
    public_root: o.PublicRoot = None,
    state_dir: o.StateDir = None,
    again: Annotated[
        bool, typer.Option("--again", help="Put every item, also those that are there; after --public-root changed.")
    ] = False,
    as_json: o.AsJson = False,
) -> None:
    """Bring searchable copies up to date with a catalog: put what is missing or different, remove what is gone.

    A run with --index does the same by itself.

    Example:

        unveil publish --out zagreb --index postgresql://unveil@db.example.org/stac
            --public-root https://data.example.org/zagreb
    """
    from flows.catalogs import indexes_of
    from flows.errors import InvalidSettings
    from flows.loading import load_settings
    from flows.progress import tell

    given = o.overrides(out=out, indexes=index or None, public_root=public_root, state_dir=state_dir)
    settings = load_settings(config, given)
    if not settings.indexes:
        raise InvalidSettings("Nothing follows the catalog; name a STAC API or a pgstac database with --index.")
    with progress_bar(), indexes_of(settings) as indexes:
        updates = indexes.reconcile(again=again, tell=tell)
    if as_json:
        print_json({"catalog": str(settings.out), "indexes": [asdict(update) for update in updates]})
    else:
        _print_updates(updates)


def _print_updates(updates: Sequence[Update]) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table("index", "collection", "put", "removed", "unchanged", title="Indexes")
    for update in updates:
        counts = (update.put, update.removed, update.unchanged)
        table.add_row(escape(update.index), escape(update.collection), *(str(count) for count in counts))
    output.print(table)
