"""Finding the pairs of a data set on disk, and what is wrong with it, by folder and file names; nothing is opened.

Known layouts, at the folder given or up to three levels below it:

    RICE1/{cloud,label}/0.png, RICE2/{cloud,label,mask}/0.png         as distributed
    NAME/{train,test}/{cloud,label}/1.png                             DE's loader; any of the four names
    NAME/{train,test}/nir/{cloud,label}/1.png                         its near infrared
    CUHK-CR1/{train,test}/... + nir/CUHK-CR1/{train,test}/...         the CUHK-CR archive

Pairs are matched by path below `cloud` and `label`, without the suffix; folders above them may have any name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum, unique
from pathlib import Path

from de_model.data.datasets import Dataset, Split
from de_model.data.imagefile import is_picture
from de_model.errors import InvalidData

_DEPTH = 3
_KNOWN = "{cloud,label} and {train,test}/{cloud,label} (RICE, CUHK-CR, with `mask` and `nir` beside them)"


@unique
class Severity(StrEnum):
    """Whether a finding keeps the data from being used."""

    ERROR = "error"
    WARNING = "warning"


@unique
class Problem(StrEnum):
    """Kinds of findings."""

    UNKNOWN_LAYOUT = "unknown layout"
    EMPTY_FOLDER = "empty folder"
    UNPAIRED = "unpaired file"
    AMBIGUOUS = "ambiguous name"
    UNREADABLE = "unreadable file"
    BAND_COUNT = "wrong number of bands"
    SAMPLE_TYPE = "wrong sample type"
    SIZE = "different sizes"
    NOT_A_NUMBER = "NaN"
    NO_MASK = "no mask"
    PAIR_COUNT = "unexpected number of pairs"
    DUPLICATE = "duplicate"
    LEAK = "the same image in two splits"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong."""

    severity: Severity
    problem: Problem
    #: One sentence that names the file or folder and says what to do.
    message: str


def error(problem: Problem, message: str) -> Finding:
    """Return a finding that keeps the data from being used."""
    return Finding(Severity.ERROR, problem, message)


def warning(problem: Problem, message: str) -> Finding:
    """Return a finding that people should know."""
    return Finding(Severity.WARNING, problem, message)


def raise_errors(findings: Iterable[Finding]) -> None:
    """Raise the first error, with the number of further ones.

    Raises:
        InvalidData: there is an error among the findings.
    """
    errors = [finding.message for finding in findings if finding.severity is Severity.ERROR]
    if errors:
        rest = f" (and {len(errors) - 1} more; `unveil data check` lists them)" if len(errors) > 1 else ""
        raise InvalidData(errors[0] + rest)


@dataclass(frozen=True, slots=True)
class PairFiles:
    """The files of one pair."""

    dataset: Dataset
    #: None where the data set has no folders for its splits.
    split: Split | None
    #: Unique within the data set and split: the path below `cloud`.
    name: str
    cloudy: Path
    clear: Path
    mask: Path | None = None
    nir_cloudy: Path | None = None
    nir_clear: Path | None = None

    @property
    def title(self) -> str:
        """What people read: data set, split and name."""
        return "/".join(part for part in (self.dataset, self.split, self.name) if part)

    @property
    def files(self) -> dict[str, Path]:
        """The files that exist, by what they are."""
        names = ("cloudy", "clear", "mask", "nir_cloudy", "nir_clear")
        return {name: path for name in names if (path := getattr(self, name)) is not None}


@dataclass(slots=True)
class Layout:
    """What was found in a folder."""

    pairs: list[PairFiles] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


def find_pairs(folder: Path) -> Layout:
    """Return all pairs below a folder in a fixed order, and what is wrong with their files and names."""
    layout = Layout()
    if not folder.is_dir():
        layout.findings.append(error(Problem.UNKNOWN_LAYOUT, f"{folder} is not a folder; give a data set's folder."))
        return layout
    roots = list(_roots(folder, _DEPTH))
    for root in roots:
        _read_root(root, layout)
    if not roots:
        layout.findings.append(_unknown(folder))
    elif not layout.pairs and not layout.findings:
        layout.findings.append(error(Problem.EMPTY_FOLDER, f"{folder} holds the folders of a data set but no picture."))
    return layout


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _holds_views(folder: Path) -> bool:
    """True when `cloud` and `label` lie here; one of them is enough if pictures lie directly in it."""
    cloud, label = folder / "cloud", folder / "label"
    if cloud.is_dir() and label.is_dir():
        return True
    return any(view.is_dir() and any(map(is_picture, view.iterdir())) for view in (cloud, label))


def _roots(folder: Path, depth: int) -> Iterator[Path]:
    """Yield the folders of data sets. Trees called `nir` belong to the data set beside them."""
    if _holds_views(folder) or any(_holds_views(folder / split) for split in Split):
        yield folder
    elif depth:
        for path in _subfolders(folder):
            if path.name != "nir":
                yield from _roots(path, depth - 1)


def _read_root(root: Path, layout: Layout) -> None:
    dataset = _dataset_of(root)
    splits: list[tuple[Split | None, Path]] = [(s, root / s) for s in Split if _holds_views(root / s)]
    parts = splits or [(None, root)]
    infrared = {split: _nir_folder(root, split) for split, _ in parts}
    missing = [split for split, folder in infrared.items() if folder is None]
    if 0 < len(missing) < len(parts):
        message = (
            f"{root} has near infrared for some splits and none for {', '.join(map(str, missing))}; add or remove it."
        )
        layout.findings.append(error(Problem.EMPTY_FOLDER, message))
    for split, folder in parts:
        _read_views(dataset, split, folder, infrared[split], layout)


def _dataset_of(root: Path) -> Dataset:
    """Return the data set by the folder's own name; any other name is a plain folder of pairs."""
    names = {name.value.casefold(): name for name in Dataset}
    return names.get(root.name.casefold(), Dataset.PAIRED)


def _nir_folder(root: Path, split: Split | None) -> Path | None:
    """Return where the near infrared of a split lies, in either layout."""
    part = split or ""
    candidates = (root / part / "nir", root.parent / "nir" / root.name / part)
    return next((path for path in candidates if (path / "cloud").is_dir() or (path / "label").is_dir()), None)


def _read_views(dataset: Dataset, split: Split | None, folder: Path, nir: Path | None, layout: Layout) -> None:
    clouds, labels = (_pictures(folder / view, layout, required=True) for view in ("cloud", "label"))
    masks = _pictures(folder / "mask", layout, required=False)
    if dataset is Dataset.RICE2 and not masks:
        message = f"{folder} has no mask folder; where cloud is will be estimated from the difference of the views."
        layout.findings.append(warning(Problem.NO_MASK, message))
    nir_clouds, nir_labels = (_pictures(nir / v, layout, required=True) if nir else {} for v in ("cloud", "label"))
    both = sorted(clouds.keys() & labels.keys(), key=_natural)
    layout.findings += _unpaired(clouds, labels, folder / "label")
    layout.findings += _unpaired(labels, clouds, folder / "cloud")
    for extra in (masks, nir_clouds, nir_labels):
        if extra:
            there = next(iter(extra.values())).parent
            layout.findings += _unpaired({name: clouds[name] for name in both}, extra, there)
            layout.findings += _unpaired(extra, clouds, folder / "cloud")
    layout.pairs += [
        PairFiles(
            *(dataset, split, name, clouds[name], labels[name]),
            mask=masks.get(name),
            nir_cloudy=nir_clouds.get(name),
            nir_clear=nir_labels.get(name),
        )
        for name in both
    ]


def _pictures(folder: Path, layout: Layout, *, required: bool) -> dict[str, Path]:
    """Return the pictures below a folder by their path in it, without the suffix."""
    if not folder.is_dir():
        if required:
            layout.findings.append(error(Problem.EMPTY_FOLDER, f"{folder} is missing; the pairs need it."))
        return {}
    found: dict[str, Path] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and is_picture(p)):
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in found:
            message = f"{path} and {found[name].name} have the same name but for the suffix; remove one of them."
            layout.findings.append(error(Problem.AMBIGUOUS, message))
        found[name] = path
    if not found:
        layout.findings.append(error(Problem.EMPTY_FOLDER, f"{folder} holds no picture (png, jpg, tif)."))
    return found


def _unpaired(own: dict[str, Path], other: dict[str, Path], where: Path) -> list[Finding]:
    lone = sorted(own.keys() - other.keys(), key=_natural) if other else []
    return [error(Problem.UNPAIRED, f"{own[name]} has no counterpart {name} in {where}.") for name in lone]


def _natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """Order by numbers where names are numbers: 2 before 10."""
    return tuple((0, int(part), part) if part.isdecimal() else (1, 0, part) for part in name.split("/"))


def _unknown(folder: Path) -> Finding:
    names = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())
    found = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "") if names else "nothing"
    return error(Problem.UNKNOWN_LAYOUT, f"{folder} has no known layout; known: {_KNOWN}. Found: {found}.")
