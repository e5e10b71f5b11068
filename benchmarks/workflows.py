"""Workflows that do next to nothing, and say when."""

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
"""A chain: each rule waits for the one before."""

_SPANS = 'printf "span {threads} %s %s\\n" $start $EPOCHREALTIME > {output}'

THREE_TIMED_RULES = f"""\
rule c:
    input: "b.span"
    output: "c.span"
    shell: '''start=$EPOCHREALTIME; {_SPANS}'''
rule b:
    input: "a.span"
    output: "b.span"
    shell: '''start=$EPOCHREALTIME; {_SPANS}'''
rule a:
    output: "a.span"
    shell: '''start=$EPOCHREALTIME; {_SPANS}'''
"""
"""The same chain; every task writes when it began and ended (bash 5)."""


def wide_and_narrow(seconds: float, cores: int, narrow: int) -> str:
    """One task that takes all `cores`, then `narrow` of one thread, one after the other."""
    rules = [
        f"""\
rule wide:
    output: "wide.span"
    threads: {cores}
    shell: '''start=$EPOCHREALTIME; sleep {seconds}; {_SPANS}'''
"""
    ]
    for number in range(1, narrow + 1):
        earlier = "wide" if number == 1 else f"narrow{number - 1}"
        rules.append(
            f"""\
rule narrow{number}:
    input: "{earlier}.span"
    output: "narrow{number}.span"
    shell: '''start=$EPOCHREALTIME; sleep {seconds}; {_SPANS}'''
"""
        )
    return f'rule all:\n    input: "narrow{narrow}.span"\n' + "".join(rules)


def read_spans(data: Path) -> str:
    """What all tasks of all runs of a server have written."""
    return "".join(path.read_text() for path in sorted(data.glob("runs/*/work/*.span")))
