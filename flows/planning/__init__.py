"""Which scenes, which cells, which work units."""
