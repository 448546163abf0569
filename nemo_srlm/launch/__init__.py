"""How stages run: what remains of a run, the worker, this machine, Slurm."""
