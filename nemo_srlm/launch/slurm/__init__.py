"""A run as Slurm jobs: planned as data (jobs), submitted (submit), done (step), looked at (report)."""
