"""Experiments: each asks one question of the model and answers it with a table, a plot and a page."""
