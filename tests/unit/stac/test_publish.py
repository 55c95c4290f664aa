"""Publishing: whole or not at all, at whatever instant a process dies or a write fails."""

from __future__ import annotations

import errno
import multiprocessing
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pystac
import pytest

from stac.catalog.publish import StaticCatalog
from stac.errors import DiskFull, InvalidProduct
from stac.product.assets import file_info
from tests.support.catalogs import problems_in

#: What changes a file system; `open` counts when it writes.
CHANGES = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.chmod", "shutil.rmtree"}
FULL, SURVIVED, OTHER = 17, 18, 19


#: Children are forked from a process of one thread: a fork of this one may inherit a lock that nobody releases.
_CHILDREN = multiprocessing.get_context("forkserver")
_CHILDREN.set_forkserver_preload([__name__])


def publish_in_a_child(
    catalog: StaticCatalog, staged: tuple[Path, pystac.Item], at: int, act: Callable[[], None]
) -> int:
    """Publish in a process that does `act` before its `at`-th change under the catalog; return its status."""
    item = staged[1].to_dict(include_self_link=False, transform_hrefs=False)
    child = _CHILDREN.Process(target=_publish, args=(catalog.root, staged[0], item, at, act))
    child.start()
    child.join()
    assert child.exitcode is not None
    return child.exitcode


def _publish(root: Path, folder: Path, item: dict[str, Any], at: int, act: Callable[[], None]) -> None:
    left = at

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if event not in CHANGES or not str(arguments[0]).startswith(str(root)):
            return
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            return
        left -= 1
        if left == 0:
            act()

    status = 0
    try:
        sys.addaudithook(count)
        StaticCatalog(root).publish(folder, pystac.Item.from_dict(item))
        # Clearing away what is left over may fail without harm.
        status = SURVIVED if left <= 0 else 0
    except DiskFull:
        status = FULL
    except Exception:  # noqa: BLE001 - the parent sees the status
        status = OTHER
    finally:
        os._exit(status)


def die() -> None:
    """End like SIGKILL: nothing is cleaned up."""
    os._exit(9)


def fill() -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def published(root: Path) -> set[str]:
    """Ids of the items a reader of the catalog finds."""
    if not (root / "catalog.json").exists():
        return set()
    assert problems_in(root, publishing=True) == []
    return {item.id for item in pystac.Catalog.from_file(str(root / "catalog.json")).get_items(recursive=True)}


@pytest.mark.parametrize("first", [False, True], ids=["into a catalog", "as the first"])
@pytest.mark.parametrize("act", [die, fill])
def test_at_every_change_the_catalog_stays_valid_and_the_next_try_completes(
    tmp_path: Path, staged: Any, act: Callable[[], None], first: bool
) -> None:
    interrupted = 0
    for at in range(1, 60):
        catalog = StaticCatalog(tmp_path / str(at))
        before = set() if first else {catalog.publish(*staged(catalog, "aaaa")).stem}
        status = publish_in_a_child(catalog, staged(catalog, "bbbb"), at, act)
        if status == 0:
            break
        assert status in ((9,) if act is die else (FULL, SURVIVED)), f"change {at}"
        interrupted += status != SURVIVED
        wanted = before | {"S2B_33TWM_20230810_0_L2A-unveil-bbbb"}
        assert before <= published(catalog.root) <= wanted
        # What the next run does: link what was lost, then make what is not there.
        catalog.repair()
        if "bbbb" not in catalog.published_work():
            catalog.publish(*staged(catalog, "bbbb"))
        assert published(catalog.root) == wanted
    else:
        pytest.fail("publishing never came to its end")
    assert interrupted >= 5


def test_publishing_the_same_work_again_keeps_its_files(tmp_path: Path, staged: Any) -> None:
    catalog = StaticCatalog(tmp_path)
    path = catalog.publish(*staged(catalog, "aaaa"))
    before = {p: (p.read_bytes(), p.stat().st_ino) for p in path.parent.iterdir()}
    again = staged(catalog, "aaaa")
    assert catalog.publish(*again) == path
    assert {p: (p.read_bytes(), p.stat().st_ino) for p in path.parent.iterdir()} == before
    assert not again[0].exists() and published(tmp_path) == {path.stem}


def test_a_damaged_product_is_replaced(tmp_path: Path, staged: Any) -> None:
    catalog = StaticCatalog(tmp_path)
    path = catalog.publish(*staged(catalog, "aaaa"))
    (path.parent / "data.tif").write_bytes(b"gone")
    assert problems_in(tmp_path) != []
    catalog.publish(*staged(catalog, "aaaa"))
    assert published(tmp_path) == {path.stem}
    assert not list((tmp_path / "unveil-cloud-free").glob(".*.old"))


def test_repair_links_what_is_there_and_drops_what_was_removed(tmp_path: Path, staged: Any) -> None:
    catalog = StaticCatalog(tmp_path)
    catalog.repair()
    assert list(tmp_path.iterdir()) == []
    one, other = (catalog.publish(*staged(catalog, name)) for name in ("aaaa", "bbbb"))
    untouched = catalog.collection_path.stat().st_ino
    catalog.repair()
    assert catalog.collection_path.stat().st_ino == untouched
    for path in other.parent.iterdir():
        path.unlink()
    other.parent.rmdir()
    assert problems_in(tmp_path) != []
    catalog.repair()
    assert published(tmp_path) == {one.stem}
    catalog.collection_path.write_text("{")
    catalog.repair()
    assert published(tmp_path) == {one.stem}


def test_repair_clears_old_staging_and_leaves_what_may_be_in_use(tmp_path: Path, staged: Any) -> None:
    catalog = StaticCatalog(tmp_path)
    catalog.publish(*staged(catalog, "aaaa"))
    old, fresh = staged(catalog, "bbbb")[0], staged(catalog, "cccc")[0]
    # As a kill in the middle of `write_json` leaves them.
    documents = [
        tmp_path / ".catalog.json.a1b2",
        *(catalog.collection_path.parent / f".collection.json.{n}" for n in "ab"),
    ]
    for path in documents:
        path.write_text("{")
    for path in (*old.iterdir(), old, *documents[:2]):
        os.utime(path, (0, 0))
    catalog.repair()
    assert not old.exists() and fresh.is_dir()
    assert [path.exists() for path in documents] == [False, False, True]
    assert published(tmp_path) == {"S2B_33TWM_20230810_0_L2A-unveil-aaaa"}


def test_repair_puts_back_a_product_whose_replacement_was_cut_off(tmp_path: Path, staged: Any) -> None:
    catalog = StaticCatalog(tmp_path)
    folder = catalog.publish(*staged(catalog, "aaaa")).parent
    folder.rename(folder.with_name(f".{folder.name}.old"))
    catalog.repair()
    assert published(tmp_path) == {folder.name} and not list(folder.parent.glob(".*.old"))


def test_a_product_that_lacks_a_file_is_not_a_cog_or_breaks_the_rules_is_refused(tmp_path: Path, staged: Any) -> None:
    catalog = StaticCatalog(tmp_path)
    for name in ("data.tif", "thumbnail.png"):
        folder, item = staged(catalog, "aaaa")
        (folder / name).unlink()
        with pytest.raises(InvalidProduct, match=name):
            catalog.publish(folder, item)
    folder, item = staged(catalog, "aaaa")
    cut = (folder / "uncertainty.tif").read_bytes()[:300]
    (folder / "uncertainty.tif").write_bytes(cut)
    with pytest.raises(InvalidProduct, match="asset uncertainty differs from its checksum"):
        catalog.publish(folder, item)
    folder, item = staged(catalog, "aaaa")
    (folder / "uncertainty.tif").write_bytes(cut)
    item.assets["uncertainty"].extra_fields |= file_info(folder / "uncertainty.tif")
    with pytest.raises(InvalidProduct, match=r"uncertainty\.tif\) is not a [^;]*; run it again\.$"):
        catalog.publish(folder, item)
    folder, item = staged(catalog, "aaaa")
    item.properties["unveil:areas"] = None
    with pytest.raises(InvalidProduct, match="unveil:areas"):
        catalog.publish(folder, item)
    assert published(tmp_path) == set() and catalog.published_work() == {}


def test_a_damaged_item_is_named(tmp_path: Path, staged: Any) -> None:
    catalog = StaticCatalog(tmp_path)
    path = catalog.publish(*staged(catalog, "aaaa"))
    for text in ("{", "[]"):
        path.write_text(text)
        assert any(path.name in problem for problem in problems_in(tmp_path))
        with pytest.raises(InvalidProduct, match=path.name):
            catalog.items()
    catalog.publish(*staged(catalog, "aaaa"))
    assert published(tmp_path) == {path.stem}
    path.write_text("{")
    catalog.withdraw(path.stem)
    assert published(tmp_path) == set() and not path.exists()


def test_licence_and_providers_come_from_the_source(tmp_path: Path, staged: Any) -> None:
    catalog = StaticCatalog(tmp_path)
    source = {"license": "CC-BY-4.0", "providers": [{"name": "ESA", "roles": ["licensor"]}], "keywords": ["msi"]}
    folder, item = staged(catalog, "aaaa")
    catalog.publish(folder, item, source)
    catalog.publish(*staged(catalog, "bbbb"))
    collection = pystac.Collection.from_file(str(catalog.collection_path))
    assert collection.license == "CC-BY-4.0" and "msi" in (collection.keywords or [])
    assert [provider.name for provider in collection.providers or []] == ["ESA", "Unveil"]
