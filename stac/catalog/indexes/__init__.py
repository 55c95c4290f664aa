"""Searchable copies of a catalog."""
