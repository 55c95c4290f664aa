"""How the units of a run are carried out."""
