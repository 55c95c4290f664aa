"""Reference networks: deterministic cloud removal whose output is DE's reference. Images in [0, 1]."""
