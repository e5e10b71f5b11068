"""Minimal workflows that log when their tasks run."""

from pathlib import Path

THREE_RULES = """\
rule all:
    input: "c.txt"
rule a:
    output: "a.txt"
    shell: "echo one > {output}"
rule b:
    input: "a.txt"
    output: "b.txt"
    shell: "cat {input} {input} > {output}"
rule c:
    input: "b.txt"
    output: "c.txt"
    shell: "wc -l < {input} > {output}"
"""
"""A chain: each rule needs the output of the previous one."""

_START = "start=$EPOCHREALTIME"
_END = 'printf "span {threads} %s %s\\n" $start $EPOCHREALTIME > {output}'


def three_timed_rules(seconds: float) -> str:
    """Return the chain with tasks that sleep and write their start and end (bash 5)."""
    work = f"{_START}; sleep {seconds}; {_END}" if seconds else f"{_START}; {_END}"
    return f"""\
rule c:
    input: "b.span"
    output: "c.span"
    shell: '''{work}'''
rule b:
    input: "a.span"
    output: "b.span"
    shell: '''{work}'''
rule a:
    output: "a.span"
    shell: '''{work}'''
"""


def wide_and_narrow(seconds: float, cores: int, narrow: int) -> str:
    """Return a workflow: one task on all `cores`, then a chain of `narrow` tasks of one thread."""
    rules = [
        f"""\
rule wide:
    output: "wide.span"
    threads: {cores}
    shell: '''{_START}; sleep {seconds}; {_END}'''
"""
    ]
    for number in range(1, narrow + 1):
        earlier = "wide" if number == 1 else f"narrow{number - 1}"
        rules.append(
            f"""\
rule narrow{number}:
    input: "{earlier}.span"
    output: "narrow{number}.span"
    shell: '''{_START}; sleep {seconds}; {_END}'''
"""
        )
    return f'rule all:\n    input: "narrow{narrow}.span"\n' + "".join(rules)


SCRIPT = """\
import pathlib, subprocess
pathlib.Path("begun").touch()
subprocess.run(["sleep", "600"])
"""


def slow_rule(kind: str) -> str:
    """Return a rule of `kind` (shell, run, script or pipe) that runs a tool for minutes.

    The rule touches `begun` first. The kind "script" needs `slow.py` with the text of SCRIPT.
    """
    shell = 'shell: "touch begun; sleep 600; touch {output}"'
    block = "run:\n" + "".join(f"        {line}\n" for line in SCRIPT.splitlines())
    work = {"shell": shell, "run": block, "script": 'script: "slow.py"'}
    if kind != "pipe":
        return f'rule slow:\n    output: "x"\n    {work[kind]}\n'
    return f"""\
rule end:
    input: "x"
    output: "y"
    shell: "cat {{input}} > {{output}}"
rule slow:
    output: pipe("x")
    {shell.replace("touch {output}", "echo > {output}")}
"""


def read_spans(data: Path) -> str:
    """Return the spans of all tasks of all runs of a server."""
    return "".join(path.read_text() for path in sorted(data.glob("runs/*/work/*.span")))
