"""Provenance: a finished run as a Workflow Run RO-Crate.

`collect` gathers the run's files and facts, `redaction` removes credentials, `ro_crate` builds the
crate and streams it as a ZIP (needs the extra `crate`).
"""
