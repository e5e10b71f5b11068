"""What to do about what Slurm says when a task does not start, or is ended by it."""

_SPEAKERS = ("srun:", "salloc:", "sbatch:", "slurmstepd", "wesemu:")
_HINTS = (
    ("DUE TO TIME LIMIT", "Slurm's time limit ended it; ask for more with the rule's runtime"),
    ("oom-kill event", "it used more memory than it asked for; raise the rule's mem_mb"),
    ("Out Of Memory", "it used more memory than it asked for; raise the rule's mem_mb"),
    ("DUE TO NODE FAILURE", "the node failed; submit again"),
    ("DUE TO PREEMPTION", "a job of higher priority took its place; submit again"),
    ("CANCELLED AT", "somebody canceled the job in Slurm (scancel)"),
    ("Unable to contact slurm controller", "slurmctld does not answer; see that it runs"),
    ("nvalid partition", "correct node.slurm_partition, or the rule's slurm_partition"),
    ("nvalid account", "correct node.slurm_account, or the rule's slurm_account"),
    ("nvalid qos", "correct the QOS in node.slurm_options, or the rule's qos"),
    ("nvalid feature", "no node has what the rule's constraint asks for"),
    ("generic resource", "no node of the partition has such GPUs"),
    ("node configuration is not available", "no node of the partition has so much; ask for less"),
    ("specification can not be satisfied", "no node of the partition has so much; ask for less"),
    ("unrecognized option", "correct node.slurm_options"),
    ("cannot write to the run directory", "wesemu's data directory must be shared with all nodes"),
    ("couldn't chdir to", "wesemu's data directory must be shared with all nodes"),
    ("execve()", "wesemu's Python must be at the same path on all nodes"),
)


def slurm_hint(words: str) -> str | None:
    """`words` are a log's last ones; None where they are none of Slurm's."""
    told = "\n".join(line for line in words.splitlines() if line.startswith(_SPEAKERS))
    return next((hint for phrase, hint in _HINTS if phrase in told), None)


def is_refusal(words: str) -> bool:
    """Whether srun says why it did not run the task, rather than how the task ended."""
    refused = ("Unable to", "nvalid", "can not be satisfied", "unrecognized", "srun: fatal:")
    return any(mark in words for mark in (*refused, "execve()"))
