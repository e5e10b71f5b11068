"""CWL by cwltool, inside the process of a run.

worker     a run: cwltool's command line as a function, its outputs, why it failed
hooks      all that touches cwltool's internals
dry_run    the tasks of a workflow, without running it

`wesemu.engines.library_engine` has the server's side.
"""
