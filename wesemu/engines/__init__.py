"""Engines: each runs workflows of one language behind `wesemu.runs.ports.Engine`.

The parts here know no workflow language; every engine can build on them:

    processes      who a process is, whom it started, ending them
    journal        events.jsonl: written by a run's process, followed by the server
    run_process    a run's own detached process: lock, worker, cancel, exit status
    execution      a launched run as the server sees it, by its files alone
    task_process   one attempt of a task on disk, and its processes
    task_book      tasks by number, over launches
    failures       a task's last words, and hints
    launches       an engine's runs: started by a launcher, followed, let go
    parameters     engine parameters by allow-list
    leases         a node's cores, memory and GPUs, shared by the tasks of all runs
    slurm          tasks as jobs of a cluster
"""
