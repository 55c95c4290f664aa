"""Showing a catalog: a server for its files and for STAC Browser."""
