"""What is told of a finished run for good: a Workflow Run RO-Crate.

facts       what lies where: the workflow's files, the inputs, the outputs, the engine
crate       these facts as a crate; needs the extra `crate`
payload     its files as they are sent; needs it, too
vocabulary  how files and programs are called there
maker       the crate as a stream of bytes, made beside the event loop
"""
