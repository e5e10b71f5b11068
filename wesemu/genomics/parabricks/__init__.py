"""NVIDIA Parabricks as a tool of the pipelines: command lines, checks before, causes after.

`python -m wesemu.genomics.parabricks` carries out one step. Nothing here has run against the real
`pbrun`: see docs/parabricks.md.
"""
