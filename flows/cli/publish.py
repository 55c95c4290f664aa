"""`unveil publish`: bring indexes up to date with a catalog, or copy it to another place."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli import options as o
from flows.cli.console import output, print_table, progress_bar, show

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stac.catalog.indexes.following import Update
    from stac.catalog.product_collections import Transfer


def publish(
    config: o.Config = None,
    out: o.Out = None,
    index: o.Index = None,
    public_root: o.PublicRoot = None,
    state_dir: o.StateDir = None,
    again: Annotated[
        bool, typer.Option("--again", help="Put every item, also those that are there; after --public-root changed.")
    ] = False,
    to: Annotated[
        str | None, typer.Option("--to", help="Copy the catalog to another folder or s3://BUCKET/PREFIX first.")
    ] = None,
    as_json: o.AsJson = False,
) -> None:
    """Bring searchable copies up to date with a catalog: put what is missing or different, remove what is gone.

    A run with --index does the same by itself. With --to the catalog is copied product by product, each as atomically
    as a run publishes it, and indexes follow the copy.

    Example:

        unveil publish --out zagreb --index postgresql://unveil@db.example.org/stac
            --public-root https://data.example.org/zagreb

        unveil publish --out zagreb --to s3://mosaics/zagreb
    """
    from flows.errors import InvalidSettings
    from flows.processing.publishing import catalog_of, indexes_of, keep_mirrors
    from flows.progress import report_progress
    from stac.catalog.product_collections import copy_catalog
    from stac.io.s3 import parse_location

    settings = o.settings(config, out=out, indexes=index or None, public_root=public_root, state_dir=state_dir)
    if not settings.indexes and to is None:
        raise InvalidSettings(
            "Nothing follows the catalog; name a STAC API or a pgstac database with --index, or --to."
        )
    copies: Sequence[Transfer] = ()
    with progress_bar():
        if to is not None:
            source, settings = settings.out, settings.model_copy(update={"out": parse_location(to)})
            if not isinstance(source, Path):
                raise InvalidSettings(f"{source} is not a folder; --to copies a catalog on disk.")
            copies = copy_catalog(source, catalog_of(settings), report_progress)
            keep_mirrors(settings)
        with indexes_of(settings) as indexes:
            updates = indexes.reconcile(again=again, progress=report_progress)
    done = {"catalog": str(settings.out), "copied": list(copies), "indexes": list(updates)}
    show(done, as_json, lambda: _print(copies, updates))


def _print(copies: Sequence[Transfer], updates: Sequence[Update]) -> None:
    for copy in copies:
        output.print(f"{copy.collection}: {copy.copied} copied, {copy.unchanged} there already.", markup=False)
    if updates:
        rows = [(each.index, each.collection, each.put, each.removed, each.unchanged) for each in updates]
        print_table("Indexes", ("index", "collection", "put", "removed", "unchanged"), rows)
