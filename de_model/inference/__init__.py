"""Restoring whole scenes: a global noise field, tiles, and the engine that runs them."""
