"""`unveil doctor`: look at everything a run needs, change nothing, and say how to mend what is missing.

Checks of the machine and the installation live here, those of services and credentials in `service_checks`. A check
that itself breaks becomes a failed check; network checks give up after three seconds.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from flows.catalogs import catalog_of
from flows.progress import tell
from flows.services.checks import Check, Status, failed, passed, warned
from flows.services.service_checks import service_checks
from flows.settings import RunSettings
from stac.errors import StacError
from stac.io.secrets import redact

__all__ = ["Check", "Status", "examine"]

_DISTRIBUTION = "unveil-eo"
_GIB = 2**30
_MULTIHASH_SHA256 = "1220"

#: Free space below which a run fails (the sample's products take about 50 MB) or should be watched, bytes.
_DISK_FAIL, _DISK_WARN = 0.25 * _GIB, 2 * _GIB
#: Memory of the machine, bytes.
_MEMORY_FAIL, _MEMORY_WARN = 2 * _GIB, 4 * _GIB

_DRIVERS = ("GTiff", "COG", "PNG")
_DRIVER_L1C = "JP2OpenJPEG"


def examine(settings: RunSettings) -> list[Check]:
    """Return all checks for a run with `settings`, in the order to read them. Never raises for what it finds."""
    checks = {
        "Python": _python,
        "packages": _packages,
        "GDAL": _gdal,
        "compute": _compute,
        "memory": _memory,
        "output folder": lambda: _output(settings),
        "state folder": lambda: _folder("state folder", settings.state),
        "sample": _sample,
        "weights": _weights,
        **service_checks(settings),
    }
    return [_guarded(name, check) for name, check in checks.items()]


def _guarded(name: str, check: Callable[[], Check]) -> Check:
    tell(f"checking {name}")
    try:
        return check()
    except Exception as error:  # noqa: BLE001 - whatever breaks a check is what the doctor has found
        return failed(
            name,
            f"the check failed: {type(error).__name__}: {redact(str(error)).splitlines()[0] if str(error) else ''}",
            "Install again with `make setup`; when that does not help, report this line.",
        )


def _python() -> Check:
    wanted = SpecifierSet(metadata.metadata(_DISTRIBUTION)["Requires-Python"])
    found = platform.python_version()
    if wanted.contains(found, prereleases=True):
        return passed("Python", f"{found} on {platform.platform(terse=True)}")
    return failed(
        "Python", f"{found}, wanted {wanted}", "Make the environment again with a newer Python: `make setup`."
    )


def _packages() -> Check:
    wanted = [Requirement(text) for text in metadata.requires(_DISTRIBUTION) or []]
    core = [r for r in wanted if r.marker is None or r.marker.evaluate({"extra": ""})]
    wrong = [problem for requirement in core if (problem := _misfit(requirement))]
    if wrong:
        return failed("packages", "; ".join(wrong), "Install the pinned versions with `make setup`.")
    names = ("prefect", "torch", "mlflow", "rasterio")
    shown = ", ".join(f"{name} {metadata.version(name)}" for name in names)
    return passed("packages", f"all {len(core)} fit; {_DISTRIBUTION} {metadata.version(_DISTRIBUTION)}, {shown}")


def _misfit(requirement: Requirement) -> str | None:
    try:
        found = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return f"{requirement.name} is missing"
    fits = requirement.specifier.contains(found, prereleases=True)
    return None if fits else f"{requirement.name} {found} instead of {requirement.specifier}"


def _gdal() -> Check:
    import rasterio

    with rasterio.Env() as environment:
        drivers = environment.drivers()
    missing = [name for name in _DRIVERS if name not in drivers]
    detail = f"{rasterio.__gdal_version__} (rasterio {rasterio.__version__}), {len(drivers)} drivers"
    if missing:
        return failed(
            "GDAL", f"{detail}, without {', '.join(missing)}", "Install rasterio from its wheel: `make setup`."
        )
    if _DRIVER_L1C not in drivers:
        remedy = f"Sources that hold JPEG 2000 need a rasterio with {_DRIVER_L1C}, as its wheel is: `make setup`."
        return warned("GDAL", f"{detail}, without {_DRIVER_L1C}", remedy)
    return passed("GDAL", f"{detail}, among them COG and {_DRIVER_L1C}")


def _compute() -> Check:
    import torch

    if torch.cuda.is_available():
        return passed("compute", "; ".join(_gpu(index) for index in range(torch.cuda.device_count())))
    detail = f"no GPU in use; {torch.get_num_threads()} CPU threads of {os.cpu_count()}"
    if shutil.which("nvidia-smi"):
        remedy = "This machine has an NVIDIA driver: install a torch build with CUDA to use its GPU."
        return warned("compute", f"{detail}; torch {torch.__version__}", remedy)
    return passed("compute", detail)


def _gpu(index: int) -> str:
    import torch

    free, total = torch.cuda.mem_get_info(index)
    return f"{torch.cuda.get_device_name(index)}, {free / _GIB:.1f} of {total / _GIB:.1f} GiB free"


def _memory() -> Check:
    total = _memory_limit()
    detail = f"{total / _GIB:.1f} GiB"
    if total < _MEMORY_FAIL:
        return failed("memory", detail, "Use a machine with at least 4 GiB, or a container with a higher limit.")
    if total < _MEMORY_WARN:
        return warned("memory", detail, "Keep work units small: set a small --bbox, and batch: 1 in the settings.")
    return passed("memory", detail)


def _memory_limit() -> int:
    """Return the memory of the machine or the limit of the container, whichever is less, bytes."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text("ascii").strip() if limit.is_file() else "max"
    return min(machine, int(text)) if text.isdigit() else machine


def _output(settings: RunSettings) -> Check:
    """Check that the catalog can be written, wherever it is."""
    if isinstance(settings.out, Path):
        return _folder("output folder", settings.out)
    try:
        catalog_of(settings).require_writable()
    except StacError as error:
        return failed("output folder", str(error), "Choose another --out, or give yourself the right to write there.")
    return passed("output folder", f"{settings.out} is writable")


def _folder(name: str, folder: Path) -> Check:
    """Check that `folder` can be made and written, and that there is room."""
    place = _nearest(folder.resolve())
    choose = "Choose another folder with --out or --state-dir."
    if not place.is_dir():
        return failed(name, f"{place} is no folder", choose)
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        return failed(
            name, f"{place} cannot be written ({error.strerror})", f"Give yourself write permission. {choose}"
        )
    free = shutil.disk_usage(place).free
    detail = f"{folder} is writable, {free / _GIB:.1f} GiB free"
    if free < _DISK_FAIL:
        return failed(name, detail, f"Make room on this disk. {choose}")
    if free < _DISK_WARN:
        return warned(name, detail, f"Enough for the sample, not for many scenes: make room. {choose}")
    return passed(name, detail)


def _nearest(path: Path) -> Path:
    """Return `path` or the nearest of its parents that exists."""
    return next((p for p in (path, *path.parents) if p.exists()), path)


def _sample() -> Check:
    from stac.search.static import sample_catalog

    remedy = "Install unveil-eo again: `make setup`; in a clone, `git checkout -- stac/sample`."
    root = sample_catalog()
    if not root.is_file():
        return failed("sample", f"{root} is missing", remedy)
    files = list(_sample_files(root))
    broken = [path.relative_to(root.parent).as_posix() for path, digest in files if not _intact(path, digest)]
    if broken or not files:
        return failed("sample", f"{len(broken)} of {len(files)} files are broken: {', '.join(broken[:3])}", remedy)
    return passed("sample", f"all {len(files)} files read")


def _sample_files(root: Path) -> Iterator[tuple[Path, str | None]]:
    """Yield path and SHA-256, where the item states one, of every raster of the sample."""
    import pystac

    for item in pystac.Catalog.from_file(str(root)).get_items(recursive=True):
        for asset in item.assets.values():
            href = asset.get_absolute_href() or ""
            if "://" not in href and (asset.media_type or "").startswith("image/tiff"):
                stated = str(asset.extra_fields.get("file:checksum", ""))
                digest = stated.removeprefix(_MULTIHASH_SHA256) if stated.startswith(_MULTIHASH_SHA256) else None
                yield Path(href), digest


def _intact(path: Path, sha256: str | None) -> bool:
    from rasterio.errors import RasterioError

    from de_model.checkpoint import sha256_of

    if not path.is_file() or (sha256 is not None and sha256_of(path) != sha256):
        return False
    import rasterio

    try:
        with rasterio.open(path) as raster:
            raster.read()
    except RasterioError:
        return False
    return True


def _weights() -> Check:
    from de_model.checkpoint import load, sha256_of, shipped_weights
    from de_model.errors import InvalidCheckpoint

    remedy = "Install unveil-eo again: `make setup`; in a clone, `git checkout -- de_model/weights`."
    try:
        path = shipped_weights()
        card = load(path).card
    except InvalidCheckpoint as error:
        return failed("weights", str(error), remedy)
    found, wanted = sha256_of(path), _stated_checksum(path)
    if wanted is not None and found != wanted:
        return failed("weights", f"{path.name} has SHA-256 {found[:12]}..., shipped was {wanted[:12]}...", remedy)
    return passed("weights", f"{path.name}, preset {card.preset}, {card.gsd_m:g} m, SHA-256 {found[:12]}...")


def _stated_checksum(path: Path) -> str | None:
    """Return the SHA-256 of `path` in the file SHA256SUMS beside it, or None where none is stated."""
    sums = path.parent / "SHA256SUMS"
    text = sums.read_text("ascii") if sums.is_file() else ""
    match = re.search(rf"^([0-9a-f]{{64}})\s+\*?{re.escape(path.name)}$", text, re.MULTILINE)
    return match[1] if match else None
