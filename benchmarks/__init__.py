"""What Unveil costs: `python -m benchmarks.NAME --out docs/results`; not part of the installed packages."""
