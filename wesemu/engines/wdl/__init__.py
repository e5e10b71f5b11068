"""WDL by miniwdl, inside the process of a run.

worker     a run: the document, its inputs, its outputs, why it failed; the tasks of a dry run
backend    tasks as local processes, or in miniwdl's own containers

`wesemu.engines.library_engine` has the server's side.
"""
