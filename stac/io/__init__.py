"""Bytes in and out: HTTP, S3, files, rasters, signing, secrets."""
