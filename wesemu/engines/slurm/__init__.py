"""Slurm under any engine; docs/slurm.md tells how a lab uses it.

cluster      what the administrator has set, and what Slurm says of it
commands     the command lines of srun and salloc
task         what runs on the node, around a task's own command
jobs         the jobs of a run that nobody minds any more
hints        what to do about Slurm's complaints
"""
