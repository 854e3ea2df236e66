"""How long a model takes: a model of the units, run on lowered tasks."""
