"""How stages run: the unfinished stages as steps, the worker contract, the launchers (this machine, Slurm)."""
