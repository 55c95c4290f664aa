"""`unveil serve`: the catalog and STAC Browser."""
