"""Pairs of the public data sets, read when a patch is drawn from them, and what is wrong with a set on disk."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from de_model.data.datasets import FACTS, REPEATED_TEST_PAIRS, Dataset, Split, hashed_split
from de_model.data.folders import Finding, PairFiles, Problem, Severity, error, find_pairs, raise_errors, warning
from de_model.data.imagefile import Samples, content_hash, picture_size, read_picture
from de_model.data.pairs import ScenePair
from de_model.errors import InvalidData

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

#: Where cloudy and clear display values differ by more than this after smoothing, cloud or shadow is taken to be.
_DIFFERENCE, _SMOOTHING_PX = 0.06, 5
_RIM_PX = _SMOOTHING_PX // 2
#: Pairs kept in memory: some hundred megabytes of pictures of 512 px.
_KEPT = 256
#: Parts of a pair that are auxiliary pictures, and the numbers of bands they may have.
_EXTRA_BANDS = {"mask": (1, 3, 4), "nir_cloudy": (1, 3, 4), "nir_clear": (1, 3, 4)}
OnPair = Callable[[int, int], None]


def read_samples(files: PairFiles) -> tuple[dict[str, Samples], list[Finding]]:
    """Return the samples `(band, y, x)` of every file of a pair that can be read, and all that is wrong with them."""
    samples: dict[str, Samples] = {}
    findings: list[Finding] = []
    for part, path in files.files.items():
        try:
            samples[part] = read_picture(path)
        except InvalidData as invalid:
            deep = "16-bit samples" in str(invalid)
            findings.append(error(Problem.SAMPLE_TYPE if deep else Problem.UNREADABLE, str(invalid)))
        else:
            findings += _faults(part, path, samples[part], files.dataset)
    return samples, findings + list(_different_sizes(files, samples))


def _faults(part: str, path: Path, samples: Samples, dataset: Dataset) -> Iterator[Finding]:
    expected = _EXTRA_BANDS.get(part, (len(FACTS[dataset].bands),))
    if len(samples) not in expected:
        wanted = " or ".join(map(str, expected))
        yield error(Problem.BAND_COUNT, f"{path} has {len(samples)} bands, {dataset} has {wanted} here.")
    types = _sample_types(part, dataset)
    if samples.dtype.name not in types:
        wanted = " or ".join(types)
        yield error(Problem.SAMPLE_TYPE, f"{path} has {samples.dtype} samples, {dataset} has {wanted} here.")
    if samples.dtype.kind == "f" and not np.isfinite(samples).all():
        share = 1 - np.isfinite(samples).mean()
        yield error(Problem.NOT_A_NUMBER, f"{path} holds NaN or infinite samples ({share:.1%}); fetch it again.")


def _sample_types(part: str, dataset: Dataset) -> tuple[str, ...]:
    if dataset is Dataset.PAIRED and part != "mask":
        return ("uint8", "uint16")
    return ("uint8",) if part == "mask" or FACTS[dataset].bits == 8 else ("uint16",)


def _different_sizes(files: PairFiles, samples: Mapping[str, Samples]) -> Iterator[Finding]:
    sizes = {part: (s.shape[2], s.shape[1]) for part, s in samples.items()}
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{files.files[part]} {width} x {height}" for part, (width, height) in sizes.items())
        yield error(Problem.SIZE, f"The pictures of pair {files.title} differ in size: {listed}.")
    kinds = {samples[part].dtype for part in ("cloudy", "clear") if part in samples}
    if len(kinds) > 1:
        yield error(Problem.SAMPLE_TYPE, f"The two views of pair {files.title} have samples of different types.")


def samples_of(files: PairFiles) -> Mapping[str, Samples]:
    """Return the samples of a pair by what they are.

    Raises:
        InvalidData: something is wrong with a file.
    """
    samples, findings = read_samples(files)
    raise_errors(findings)
    return samples


@dataclass(frozen=True, slots=True)
class FilePair:
    """One pair of a data set on disk; a `PairSource`."""

    files: PairFiles
    #: Common names in channel order.
    bands: tuple[str, ...]
    #: Greatest stored value and the reflectance or display value 1: 255 of 8 bits, 10000 of 16 bits.
    full_scale: int
    #: Rows and columns.
    shape: tuple[int, int]
    #: Names of all channels as stored, of which `bands` is a selection.
    stored: tuple[str, ...]
    #: `samples_of`, which remembers the pairs that were used last.
    read: Callable[[PairFiles], Mapping[str, Samples]]

    @property
    def name(self) -> str:
        """Data set, split and name of the files."""
        return self.files.title

    @property
    def gsd_m(self) -> float | None:
        """Pixel size, metres; None where it was not recorded."""
        return FACTS[self.files.dataset].gsd_m

    @property
    def channels(self) -> int:
        """Number of bands."""
        return len(self.bands)

    @property
    def cover_range(self) -> tuple[float, float]:
        """Least and greatest share of cloud of a patch: the data sets chose their pictures, all of them count."""
        return 0.0, 1.0

    def window(self, rows: slice, columns: slice) -> ScenePair:
        """Return a part of the pair, the same as of the whole.

        `valid` is True where both views have data: everywhere in 8-bit sets, where no band of either is 0 in all
        bands in 16-bit ones. `obscured` is the mask of RICE2 where there is one (any value above 0); else where
        the views differ: the difference of display values, averaged over bands and 5 x 5 px, exceeds 0.06. That
        marks changes of the ground between the dates as well.

        Raises:
            InvalidData: a file is unreadable, or its size, bands or samples are not those of the data set.
        """
        samples = self.read(self.files)
        if samples["cloudy"].shape[1:] != self.shape:
            found, expected = (f"{s[1]} x {s[0]} px" for s in (samples["cloudy"].shape[1:], self.shape))
            raise InvalidData(f"{self.files.cloudy} has {found}, not {expected} as when it was listed; list it again.")
        # Smoothing of the difference reaches beyond the window.
        with_rim = [
            slice(max(part.start - _RIM_PX, 0), min(part.stop + _RIM_PX, size))
            for part, size in zip((rows, columns), self.shape, strict=True)
        ]
        inner = [slice(p.start - r.start, p.stop - r.start) for p, r in zip((rows, columns), with_rim, strict=True)]
        samples = {part: array[:, *with_rim] for part, array in samples.items()}
        cloudy, clear = (self._values(samples, view) for view in ("cloudy", "clear"))
        valid = np.asarray(np.isfinite(cloudy + clear).all(axis=0))
        obscured = samples["mask"].max(axis=0) > 0 if "mask" in samples else _differs(cloudy, clear)
        return ScenePair(self.name, cloudy, clear, valid, obscured & valid).window(*inner)

    def content(self) -> Iterator[bytes]:
        """Yield the stored samples and how they are read."""
        yield repr((self.bands, self.full_scale)).encode()
        for part, samples in sorted(self.read(self.files).items()):
            yield part.encode() + samples.tobytes()

    def _values(self, samples: Mapping[str, Samples], view: str) -> FloatArray:
        stored = samples[view]
        if f"nir_{view}" in samples:
            stored = np.concatenate([stored, samples[f"nir_{view}"][:1]])
        chosen = stored[[self.stored.index(band) for band in self.bands]]
        scaled = chosen.astype(np.float32) / np.float32(self.full_scale)
        if self.full_scale == 255:  # display values
            return np.square(scaled)
        return np.where((stored == 0).all(axis=0), np.float32(np.nan), scaled)


def _differs(cloudy: FloatArray, clear: FloatArray) -> BoolArray:
    display = (np.sqrt(np.nan_to_num(view).clip(0, 1)) for view in (cloudy, clear))
    difference = np.abs(next(display) - next(display)).mean(axis=0)
    return uniform_filter(difference, _SMOOTHING_PX, mode="nearest") > _DIFFERENCE


def open_dataset(folder: Path, split: Split | None = None, bands: Sequence[str] | None = None) -> list[FilePair]:
    """Return the pairs of a data set in a fixed order; pictures are read when patches are drawn.

    Args:
        folder: the data set's folder or one above it; `folders` names the known layouts.
        split: which part; all when left out. See `datasets`; for RICE without split folders, telling the parts
            needs every picture once, so that identical ones are not torn apart. Test pairs of CUHK-CR1 that repeat
            others are left out of the test (98 of 134 remain).
        bands: common names to read, in this order; all when left out.

    Raises:
        InvalidData: the layout is unknown, files are unpaired or missing, the folder holds several data sets, or
            not the split or bands asked for.
    """
    layout = find_pairs(folder)
    found = sorted({pair.dataset for pair in layout.pairs})
    raise_errors(layout.findings)
    if len(found) > 1:
        raise InvalidData(f"{folder} holds {', '.join(found)}; give the folder of one of them.")
    chosen = layout.pairs if split is None else _of_split(layout.pairs, split)
    if not chosen:
        raise InvalidData(f"{folder} holds no {split} pair of {found[0]}.")
    return _file_pairs(chosen, bands)


def _of_split(pairs: list[PairFiles], split: Split) -> list[PairFiles]:
    if all(pair.split is None for pair in pairs):
        contents = {
            pair.name: [content_hash(read_picture(path)) for path in (pair.cloudy, pair.clear)] for pair in pairs
        }
        splits = hashed_split([pair.name for pair in pairs], contents)
        return [pair for pair in pairs if splits[pair.name] is split]
    repeated = REPEATED_TEST_PAIRS.get(pairs[0].dataset, frozenset()) if split is Split.TEST else frozenset()
    return [pair for pair in pairs if pair.split is split and pair.name not in repeated]


def _file_pairs(pairs: list[PairFiles], bands: Sequence[str] | None) -> list[FilePair]:
    first = pairs[0]
    facts = FACTS[first.dataset]
    stored = facts.bands
    if facts.extra_band and all(pair.nir_cloudy and pair.nir_clear for pair in pairs):
        stored = (*stored, facts.extra_band)
    chosen = tuple(bands or stored)
    unknown = [band for band in chosen if band not in stored]
    if unknown:
        raise InvalidData(
            f"{first.dataset} in this folder has no band {', '.join(unknown)}; it has {', '.join(stored)}."
        )
    _, _, bits = picture_size(first.cloudy)
    scale, read = 255 if bits == 8 else 10_000, lru_cache(maxsize=_KEPT)(samples_of)
    sizes = (picture_size(pair.cloudy) for pair in pairs)
    return [
        FilePair(pair, chosen, scale, (height, width), stored, read)
        for pair, (width, height, _) in zip(pairs, sizes, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class PairCount:
    """How many pairs a part of a data set holds."""

    dataset: Dataset
    split: Split | None
    pairs: int


@dataclass(frozen=True, slots=True)
class Report:
    """What a folder holds and what is wrong with it."""

    folder: Path
    counts: tuple[PairCount, ...]
    findings: tuple[Finding, ...]

    @property
    def usable(self) -> bool:
        """True when nothing is an error."""
        return all(finding.severity is not Severity.ERROR for finding in self.findings)


def check_folder(folder: Path, *, pixels: bool = True, on_pair: OnPair | None = None) -> Report:
    """Check layout and names, then every picture, then whether pictures repeat.

    One pair is in memory at a time.

    Args:
        folder: a data set's folder or one above it.
        pixels: False leaves all pictures unopened: names and layout alone, in seconds.
        on_pair: called with how many pairs of how many have been read.
    """
    layout = find_pairs(folder)
    findings = list(layout.findings)
    counts = Counter((pair.dataset, pair.split) for pair in layout.pairs)
    findings += _unexpected_counts(counts)
    if pixels:
        findings += _check_pictures(layout.pairs, on_pair)
    return Report(folder, tuple(PairCount(*part, number) for part, number in counts.items()), tuple(findings))


def _unexpected_counts(counts: Counter[tuple[Dataset, Split | None]]) -> list[Finding]:
    totals: Counter[Dataset] = Counter()
    for (dataset, _), number in counts.items():
        totals[dataset] += number
    return [
        warning(
            Problem.PAIR_COUNT, f"{dataset} holds {number} pairs here, the distributed archive {FACTS[dataset].pairs}."
        )
        for dataset, number in totals.items()
        if FACTS[dataset].pairs not in (None, number)
    ]


def _check_pictures(pairs: list[PairFiles], on_pair: OnPair | None) -> list[Finding]:
    findings: list[Finding] = []
    readable: list[PairFiles] = []
    hashes: list[dict[str, str]] = []
    for done, pair in enumerate(pairs, 1):
        samples, faults = read_samples(pair)
        findings += faults
        if {"cloudy", "clear"} <= samples.keys():
            readable.append(pair)
            hashes.append({view: content_hash(samples[view]) for view in ("cloudy", "clear")})
        if on_pair is not None:
            on_pair(done, len(pairs))
    return findings + _duplicates(readable, hashes)


def _duplicates(pairs: Sequence[PairFiles], hashes: Sequence[Mapping[str, str]]) -> list[Finding]:
    """Return every set of pairs that share a picture, by the `content_hash` of their views.

    The same picture in two splits is an error (`Problem.LEAK`); within one split, or where no split is known, or
    where the readers leave the test pair out anyway, a warning. Give all data sets that are trained or tested on
    together: CUHK-CR1 shares pictures with CUHK-CR2.
    """
    shared: dict[tuple[int, ...], set[str]] = defaultdict(set)
    for view in ("cloudy", "clear"):
        groups: dict[str, list[int]] = defaultdict(list)
        for index, own in enumerate(hashes):
            groups[own[view]].append(index)
        for members in groups.values():
            if len(members) > 1:
                shared[tuple(members)].add(view)
    return [_duplicate([pairs[i] for i in members], views) for members, views in sorted(shared.items())]


def _duplicate(pairs: list[PairFiles], views: set[str]) -> Finding:
    names = ", ".join(pair.title for pair in pairs)
    message = f"{names} hold the same {' and '.join(sorted(views, reverse=True))} picture"
    known = [p for p in pairs if p.split is Split.TEST and p.name in REPEATED_TEST_PAIRS.get(p.dataset, ())]
    if len({pair.split for pair in pairs if pair not in known} - {None}) > 1:
        return error(Problem.LEAK, message + "; it is trained and tested on. Leave it out of the test.")
    left_out = f"; {', '.join(p.name for p in known)} of the test is known for it and left out" if known else ""
    return warning(Problem.DUPLICATE, message + left_out + ".")
