"""A WES conformance run against any server (docs/conformance.md). `examine` runs all checks.

`probe` sends requests, `schemas` and `workflows` have what the specification and the runs need,
`evidence` collects answers and runs, `service_checks` and `run_checks` judge them.
"""
