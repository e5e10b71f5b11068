"""WDL with miniwdl, in the worker of a run.

worker     a run: document, inputs, outputs, failures; also dry runs
backend    tasks as local processes, or in miniwdl's containers

`wesemu.engines.library_engine` has the engine for the server.
"""
