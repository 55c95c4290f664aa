"""Questions to the model on ground it never saw: `python -m benchmarks.ablations NAME --out FOLDER`."""
