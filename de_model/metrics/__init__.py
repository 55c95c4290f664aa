"""Numbers that say how good a restoration is."""
