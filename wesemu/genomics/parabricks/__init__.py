"""NVIDIA Parabricks as a tool of the pipelines: preflight checks, command lines, failure reasons.

`python -m wesemu.genomics.parabricks` runs one step. Nothing here has run with the real `pbrun`:
see docs/parabricks.md.
"""
