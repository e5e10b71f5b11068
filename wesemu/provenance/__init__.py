"""Provenance: a finished run as a Workflow Run RO-Crate.

`collect` gathers the run's files and facts and streams the crate, `redaction` removes credentials,
`ro_crate` builds the crate (needs the extra `crate`).
"""
