"""Engines: each runs workflows of one language behind `wesemu.runs.ports.Engine`.

The modules here know no workflow language; every engine builds on them:

    main            the command line of a run's process and of a dry run's
    run_process     a run's own detached process: lock, worker, cancel, exit status
    execution       a launched run as the server sees it; starting and following runs
    event_log       events.jsonl: written by the run's process, followed by the server
    task_recorder   tasks and their attempts on disk, and their processes
    leases          a node's cores, memory and GPUs, shared by the tasks of all runs
    lease_queue     who waits for a lease, and who gets it next
    launch_spec     what a run's process has to know
    options         engine parameters by allow-list
    dry_run         planning a workflow without running it
    sandbox         what a run's processes may read and write: namespaces, landlock, bubblewrap
    processes       finding, identifying and ending processes
    failures        the cause of a task's failure, and hints
    library_engine, library_worker    engines that are Python libraries (CWL, WDL)
    slurm, slurm_task                 tasks as jobs of a cluster
"""
