"""Checking a published catalog from outside: what a reader would stumble over, wherever the catalog lies."""

from __future__ import annotations

from stac.checking.check import CheckOptions, check_catalog
from stac.checking.report import CatalogReport, Counts, Problem, ProblemKind

__all__ = ["CatalogReport", "CheckOptions", "Counts", "Problem", "ProblemKind", "check_catalog"]
