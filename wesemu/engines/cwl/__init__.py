"""CWL with cwltool, in the worker of a run.

worker     a run: calls cwltool's `main`, keeps the outputs, describes failures
hooks      all access to cwltool's internals
dry_run    plans the tasks of a workflow

`wesemu.engines.library_engine` has the engine for the server.
"""
