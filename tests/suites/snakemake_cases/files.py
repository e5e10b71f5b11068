"""Outputs and inputs: temporary, protected, checked, shadowed, strange."""

from suites.snakemake_cases.case import Case

FILES: dict[str, Case] = {
    "temp": Case(
        """
        rule all:
            input: "b.txt"
        rule a:
            output: temp("a.txt"), temp(directory("d"))
            shell: "echo a > {output[0]}; mkdir {output[1]}; echo d > {output[1]}/d.txt"
        rule b:
            input: "a.txt", "d"
            output: "b.txt"
            shell: "cat {input[0]} {input[1]}/d.txt > {output}"
        """
    ),
    "protected": Case(
        """
        rule all:
            output: protected("o.txt")
            shell: "echo kept > {output}"
        """
    ),
    "touch": Case(
        """
        rule all:
            input: "d/done"
        rule a:
            output: touch("d/done"), "d/a.txt"
            shell: "echo a > {output[1]}"
        """
    ),
    "directory_with_output_inside": Case(
        """
        rule all:
            input: "qc", "qc/summary.txt"
        rule qc:
            output: directory("qc"), "qc/summary.txt"
            shell: "mkdir -p qc/plots; echo 1 > qc/plots/a.txt; echo ok > {output[1]}"
        """
    ),
    "multiext": Case(
        """
        rule all:
            input: multiext("index", ".amb", ".ann")
        rule index:
            output: multiext("index", ".amb", ".ann")
            shell: "for f in {output}; do echo $f > $f; done"
        """
    ),
    "ensure": Case(
        """
        rule all:
            output: ensure("o.txt", non_empty=True)
            shell: "echo full > {output}"
        """
    ),
    "ensure_fails": Case(
        """
        rule all:
            output: ensure("o.txt", non_empty=True)
            shell: "> {output}"
        """
    ),
    "ancient": Case(
        """
        rule all:
            input: "o.txt"
        rule o:
            input: ancient("source.txt")
            output: "o.txt"
            shell: "cp {input} {output}"
        """,
        {"source.txt": "old\n"},
    ),
    "shadow_minimal": Case(
        """
        rule all:
            input: "o.txt"
        rule o:
            input: "source.txt"
            output: "o.txt"
            shadow: "minimal"
            shell: "cat {input} > {output}; echo rubbish > rubbish.txt"
        """,
        {"source.txt": "s\n"},
    ),
    "shadow_shallow": Case(
        """
        rule all:
            output: "d/o.txt"
            log: "logs/o.log"
            shadow: "shallow"
            shell: "mkdir -p d; cat source.txt > {output}; echo logged > {log}"
        """,
        {"source.txt": "s\n"},
    ),
    "missing_output": Case(
        """
        rule all:
            output: "never.txt"
            shell: "true"
        """,
        flags=("--latency-wait", "0"),
    ),
    "strange_names": Case(
        """
        rule all:
            input: "a b/ü & c.txt"
        rule make:
            output: "a b/ü & c.txt"
            shell: "echo ok > {output:q}"
        """
    ),
    "large_output": Case(
        """
        rule all:
            output: "big.bin"
            shell: "head -c 3000000 /dev/zero > {output}"
        """
    ),
    "script_that_sets_up": Case(
        """
        shell("./setup.sh")
        rule copy:
            input: "in/{name}"
            output: "out/{name}"
            shell: "cp {input} {output}"
        """,
        {"setup.sh": "#!/bin/sh\nmkdir -p in far; echo f > far/x; ln -sf ../far/x in/x\n"},
        engine={"targets": "out/x"},
        flags=("out/x",),
    ),
}
