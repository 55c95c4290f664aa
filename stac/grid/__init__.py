"""Tiles, fixed grids, footprints, and the grid of a file."""
