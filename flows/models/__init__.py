"""Models: registry, training, evaluation, gates, promotion."""
