"""Small workflows, each about one feature of Snakemake.

Each runs with plain `snakemake` and through the server. Both must leave the same files and agree
about success.
"""

from suites.snakemake_cases.case import Case
from suites.snakemake_cases.files import FILES
from suites.snakemake_cases.jobs import JOBS
from suites.snakemake_cases.options import OPTIONS
from suites.snakemake_cases.rules import RULES

CASES: dict[str, Case] = {**RULES, **JOBS, **FILES, **OPTIONS}

__all__ = ["CASES", "Case"]
