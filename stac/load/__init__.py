"""Pixels of items on a grid, scaled by evidence and masked."""
