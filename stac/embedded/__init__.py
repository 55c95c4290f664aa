"""A STAC API in memory, over a static catalog: no database, one process, loopback."""
