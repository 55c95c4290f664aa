"""Measuring a finished product against what was observed around its restored pixels, and judging it."""
