"""Rules that the samples of a pair must follow; the readers raise what the checker lists."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from de_model.data.datasets import FACTS, Dataset
from de_model.data.findings import Finding, Problem, error
from de_model.data.imagefile import Samples, read_picture
from de_model.data.layouts import PairFiles
from de_model.errors import InvalidData

#: Parts of a pair that are auxiliary pictures, and the numbers of bands they may have.
_EXTRA_BANDS = {"mask": (1, 3, 4), "nir_cloudy": (1, 3, 4), "nir_clear": (1, 3, 4)}


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
