"""Publish items atomically; keep, copy, index and check a catalog."""
