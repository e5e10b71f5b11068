"""A WES conformance run against any server (docs/conformance.md). `examine` runs all checks.

`probe` sends requests, `schemas` has the schemas of the specification, `workflows` has the
workflows of the runs, `evidence` collects answers and runs. `service_checks` and `run_checks` judge
them.
"""
