"""Engines: each runs workflows of one language behind `wesemu.runs.ports.Engine`.

These modules serve every workflow language:

    main            the table of engines; command line of run processes and dry runs
    run_process     the detached process of one run: lock, worker, cancel, exit status
    execution       starts and follows run processes from the server
    event_log       events.jsonl: the run process appends, the server follows
    task_recorder   records the tasks of a launch and controls their processes
    attempt         one execution of a task: its files, processes and usage
    leases          cores, memory and GPUs of a node, shared by the tasks of all runs
    lease_queue     the queue for leases and its order
    forkserver, forkserver_client     forks runs from a process that has imported the engine
    launch_spec     engine.json: the parameters of a launch
    dry_run         plans a workflow without running it
    sandbox         limits what the processes of a run may read and write
    isolation       the kernel interfaces of the sandbox
    processes       finds, identifies and ends processes
    failures        the cause of a failed task, and hints
    library_engine, library_worker    engines that are Python libraries (CWL, WDL)
    slurm, slurm_task                 tasks as jobs of a cluster
"""
