"""Sentinel Hub as a source of items and pixels."""
