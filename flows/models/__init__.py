"""Models: the MLflow registry, training, evaluation, and restoring plain images."""
