"""How many work units of a run are worked on at once, and in which threads, processes or machines."""
