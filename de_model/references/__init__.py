"""Reference networks: deterministic cloud removal whose output is DE's prior. Images in [0, 1]."""
