"""Execution of jobs: groups, pipes, services, retries, failures, scripts, resources."""

from suites.snakemake_cases.case import Case

JOBS: dict[str, Case] = {
    "groups": Case(
        """
        rule all:
            input: expand("{n}.b", n=range(3))
        rule a:
            output: "{n}.a"
            group: "together"
            shell: "echo {wildcards.n} > {output}"
        rule b:
            input: "{n}.a"
            output: "{n}.b"
            group: "together"
            shell: "cp {input} {output}"
        """
    ),
    "pipe": Case(
        """
        rule all:
            input: "counted.txt"
        rule produce:
            output: pipe("numbers")
            shell: "seq 1000 > {output}"
        rule count:
            input: "numbers"
            output: "counted.txt"
            shell: "wc -l < {input} | tr -d ' ' > {output}"
        """
    ),
    "pipe_fails": Case(
        """
        rule all:
            input: "counted.txt"
        rule produce:
            output: pipe("numbers")
            shell: "seq 10 > {output}; exit 3"
        rule count:
            input: "numbers"
            output: "counted.txt"
            shell: "cat {input} > {output}"
        """
    ),
    "service": Case(
        """
        rule all:
            input: "answer.txt"
        rule serve:
            output: service("ready")
            shell: "echo up > {output}; exec sleep 60"
        rule ask:
            input: "ready"
            output: "answer.txt"
            shell: "cat {input} > {output}"
        """
    ),
    "retries": Case(
        """
        rule all:
            output: "o.txt"
            retries: 2
            shell: "echo x >> tries; test $(wc -l < tries) -ge 2; echo ok > {output}"
        """
    ),
    "attempt_resources": Case(
        """
        rule all:
            output: "o.txt"
            retries: 2
            resources: tries=lambda wildcards, attempt: attempt
            shell: "test {resources.tries} -eq 3; echo {resources.tries} > {output}"
        """
    ),
    "fails": Case(
        """
        rule all:
            output: "o.txt"
            shell: "echo partial > {output}; exit 4"
        """
    ),
    "run": Case(
        """
        rule all:
            output: "o.txt"
            params: n=3
            threads: 2
            run:
                with open(output[0], "w") as file:
                    file.write(f"{params.n} {threads} {wildcards}\\n")
                shell("echo more >> {output}")
        """
    ),
    "run_fails": Case(
        """
        rule all:
            output: "o.txt"
            run:
                raise ValueError("no")
        """
    ),
    "script_python": Case(
        """
        rule all:
            input: "in.txt"
            output: "o.txt"
            params: word="w"
            log: "logs/o.log"
            script: "scripts/work.py"
        """,
        {
            "in.txt": "i\n",
            "scripts/work.py": "from pathlib import Path\n"
            "import helper\n"
            "Path(snakemake.log[0]).write_text('log\\n')\n"
            "Path(snakemake.output[0]).write_text(\n"
            "    helper.twice(Path(snakemake.input[0]).read_text()) + snakemake.params.word)\n",
            "scripts/helper.py": "def twice(text):\n    return text * 2\n",
        },
    ),
    "script_bash": Case(
        """
        rule all:
            output: "o.txt"
            params: word="two words"
            script: "scripts/work.sh"
        """,
        {
            "scripts/work.sh": "#!/bin/bash\n"
            'echo "${snakemake_params[word]}" > "${snakemake_output[0]}"\n'
        },
    ),
    "executable_attachment": Case(
        """
        rule all:
            output: "o.txt"
            shell: "bash tools/say.sh > {output}"
        """,
        {"tools/say.sh": "#!/bin/sh\necho said\n"},
    ),
    "log_and_benchmark": Case(
        """
        rule all:
            output: "o.txt"
            log: "logs/o.log"
            benchmark: "bench/o.tsv"
            shell: "echo logged > {log}; echo o > {output}"
        """,
        unstable=("bench/o.tsv",),
    ),
    "report": Case(
        """
        report: "report/workflow.rst"
        rule all:
            output: report("plot.svg", caption="report/plot.rst", category="Plots")
            shell: "echo '<svg/>' > {output}"
        """,
        {"report/workflow.rst": "All plots.\n", "report/plot.rst": "{{ snakemake.rule }}\n"},
    ),
    "localrules": Case(
        """
        localrules: all, a
        rule all:
            input: "a.txt"
        rule a:
            output: "a.txt"
            shell: "echo a > {output}"
        """
    ),
    "handlers": Case(
        """
        onstart:
            open("started.txt", "w").write("started")
        onsuccess:
            open("success.txt", "w").write("success")
        rule all:
            output: "o.txt"
            shell: "echo o > {output}"
        """
    ),
    "onerror": Case(
        """
        onerror:
            open("error.txt", "w").write("error")
        rule all:
            output: "o.txt"
            shell: "exit 1"
        """
    ),
    "resources": Case(
        """
        rule all:
            output: "o.txt"
            resources: mem_mb=10, runtime=5, tmpdir="here"
            threads: 1
            shell: "echo {resources.mem_mb} {resources.runtime} > {output}"
        """
    ),
    "threads_scaled": Case(
        """
        rule all:
            output: "o.txt"
            threads: 64
            shell: "echo {threads} > {output}"
        """,
        engine={"cores": "2"},
    ),
    "environment": Case(
        """
        envvars:
            "HOME"
        rule all:
            output: "o.txt"
            shell: "test -n \\"$HOME\\" && echo set > {output}"
        """
    ),
}
