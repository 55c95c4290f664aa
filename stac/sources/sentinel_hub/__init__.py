"""Sentinel Hub: scenes from its Catalog, pixels from its Process API, through the `sentinelhub` library."""
