"""What an operator does with many runs: backfill, redrive, census, status."""
