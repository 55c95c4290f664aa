"""Statistics of restored pixels against the training set."""
