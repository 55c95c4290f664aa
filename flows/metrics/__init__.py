"""Figures of runs for Prometheus, and what a scene costs."""
