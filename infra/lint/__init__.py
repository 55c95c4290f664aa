"""Checks of the repository that no kept tool makes."""
