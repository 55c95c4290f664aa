"""The catalog that runs write: `unveil catalog check`, `unveil catalog export`, `unveil retract`, `unveil publish`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli import options as o
from flows.cli.console import output, print_table, progress_bar, show
from flows.cli.setting_options import Given, takes_settings
from flows.cli.tables import print_report
from flows.errors import EXIT_FAILED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stac.catalog.indexes.following import Update
    from stac.catalog.product_collections import Transfer
    from stac.io.s3 import Location

app = typer.Typer(help="The catalog that runs write.", no_args_is_help=True)


@app.command()
def check(
    catalog: Annotated[
        str | None,
        typer.Argument(help="Folder, s3://BUCKET/PREFIX, or address of a catalog.json; --out when left out."),
    ] = None,
    out: o.Out = None,
    checksums: Annotated[
        bool,
        typer.Option("--checksums/--no-checksums", help="Read every file whole, for its checksum and COG layout."),
    ] = True,
    as_json: o.AsJson = False,
) -> None:
    """Check a catalog: documents against their schemas, every link, file, size, checksum, COG, extent, and counts.

    The catalog may lie in a folder, in a bucket or on a web server. Exit status 1 when anything is wrong.

    Example:

        unveil catalog check --out unveil-out
        unveil catalog check https://example.org/catalog/catalog.json --json
    """
    from flows.progress import report_progress
    from stac.catalog.check import CheckOptions, check_catalog

    settings = o.settings(out=out)
    options = CheckOptions(checksums=checksums, s3=settings.access.s3)
    with progress_bar():
        report = check_catalog(catalog or str(settings.out), options, report_progress)
    show(report.document(), as_json, lambda: print_report(report))
    if not report.valid:
        raise typer.Exit(EXIT_FAILED)


@app.command()
def export(
    file: Annotated[Path, typer.Option("--geoparquet", help="File that is written, e.g. items.parquet.")],
    collections: Annotated[
        list[str],
        typer.Option(
            "--collection",
            help="Collection; may be given several times; all when left out.",
            default_factory=list,
            show_default=False,
        ),
    ],
    catalog: Annotated[
        str | None,
        typer.Argument(help="Folder, s3://BUCKET/PREFIX, or address of a catalog.json; --out when left out."),
    ] = None,
    out: o.Out = None,
    base: Annotated[str, typer.Option("--base", help="Address at which the catalog is served, for the hrefs.")] = "",
    as_json: o.AsJson = False,
) -> None:
    """Write all items into one STAC-GeoParquet file, for DuckDB, GeoPandas and everything that reads Parquet.

    Every collection has such files already, one a month in its folder `_items`; this one holds them all, and the hrefs
    that its reader needs.

    Example:

        unveil catalog export --geoparquet items.parquet --out unveil-out
        unveil catalog export --geoparquet items.parquet --base https://example.org/catalog
    """
    from flows.progress import report_progress
    from stac.catalog.geoparquet import export_items

    settings = o.settings(out=out)
    place = catalog or str(settings.out)
    with progress_bar():
        count = export_items(
            place, file, collections, base=base, s3=settings.access.s3,
            progress=lambda number: report_progress("reading items", number),
        )  # fmt: skip
    show(
        {"catalog": place, "items": count, "file": str(file), "bytes": file.stat().st_size},
        as_json,
        f"{count} items of {place} in {file}.",
    )


@takes_settings("out", "indexes", "state_dir")
def retract(
    given: Given,
    item_ids: Annotated[list[str], typer.Argument(metavar="ITEM...", help="Ids of published items.")],
    as_json: o.AsJson = False,
) -> None:
    """Take items out of the catalog: link, document and files. Readers see each item whole or not at all.

    A later run makes the item again if the scene is still wanted. The item of a region goes with any of its cells.

    Example:

        unveil retract S2A_33TWL_20230818_0_L2A-unveil-1b2c3d4e --out unveil-out
    """
    from flows.errors import InvalidSettings
    from flows.processing.publishing import indexes_of, keep_mirrors, require_catalog
    from stac.catalog.product_collections import ProductCollection, with_regions
    from stac.catalog.product_collections import retract as take_out

    settings = o.settings(**given)
    catalog = require_catalog(settings)
    catalogs = [catalog.beside(kind) for kind in ProductCollection]
    missing = [item_id for item_id in item_ids if not any(kind.is_there(item_id) for kind in catalogs)]
    if missing:
        raise InvalidSettings(
            f"The catalog has no item {missing[0]}; `unveil status` names the items. Nothing was done."
        )
    with progress_bar(), indexes_of(settings) as indexes:
        gone = with_regions(catalog, item_ids)
        changed = take_out(catalog, gone)
        indexes.remove(gone)
        for place in changed:
            indexes.put(place)
        keep_mirrors(settings)
    regions = [name for name in gone if name not in item_ids]
    note = (
        f" Made of them, and taken out, too: {', '.join(regions)}; `unveil mosaic` makes such an item again."
        if regions
        else ""
    )
    show({"retracted": gone}, as_json, f"{len(gone)} taken out.{note}")


@takes_settings("out", "indexes", "public_root", "state_dir")
def publish(
    given: Given,
    config: o.Config = None,
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
    from flows.processing.publishing import catalog_of, indexes_of, keep_mirrors, require_catalog
    from flows.progress import report_progress
    from stac.catalog.product_collections import copy_catalog
    from stac.io.s3 import parse_location

    settings = o.settings(config, **given)
    if not settings.indexes and to is None:
        raise InvalidSettings(
            "Nothing follows the catalog; name a STAC API or a pgstac database with --index, or --to."
        )
    require_catalog(settings)
    copies: Sequence[Transfer] = ()
    with progress_bar():
        if to is not None:
            source, settings = settings.out, settings.model_copy(update={"out": parse_location(to)})
            if not isinstance(source, Path):
                raise InvalidSettings(f"{source} is not a folder; --to copies a catalog on disk.")
            _check_apart(source, settings.out)
            catalog_of(settings).require_writable()
            copies = copy_catalog(source, catalog_of(settings), report_progress, settings.public_root)
            keep_mirrors(settings)
        with indexes_of(settings) as indexes:
            updates = indexes.reconcile(again=again, progress=report_progress)
    done = {"catalog": str(settings.out), "copied": list(copies), "indexes": list(updates)}
    show(done, as_json, lambda: _print_updates(copies, updates))


def _check_apart(source: Path, copy: Location) -> None:
    """Raise where one of two catalogs would lie in the other: documents of the inner one would belong to both."""
    from flows.errors import InvalidSettings

    if not isinstance(copy, Path):
        return
    one, other = source.resolve(), copy.resolve()
    if one.is_relative_to(other) or other.is_relative_to(one):
        raise InvalidSettings(f"--to {copy} and the catalog {source} lie in each other; name a folder beside it.")


def _print_updates(copies: Sequence[Transfer], updates: Sequence[Update]) -> None:
    for copy in copies:
        output.print(f"{copy.collection}: {copy.copied} copied, {copy.unchanged} there already.", markup=False)
    if updates:
        rows = [(each.index, each.collection, each.put, each.removed, each.unchanged) for each in updates]
        print_table("Indexes", ("index", "collection", "put", "removed", "unchanged"), rows)
