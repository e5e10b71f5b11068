"""Small workflows, each about one thing that Snakemake can do.

Each is run by plain `snakemake` and through the server, which must leave the same files and agree
about success.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Case:
    """A Snakefile with its other files. `engine` are WES engine parameters, `flags` the same for
    Snakemake's command line. `unstable` files differ from run to run; only their names count."""

    snakefile: str
    files: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, object] = field(default_factory=dict)
    engine: Mapping[str, str] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    unstable: tuple[str, ...] = ()


CASES: dict[str, Case] = {
    "chain": Case(
        """
        rule all:
            input: "c.txt"
        rule a:
            output: "a.txt"
            shell: "echo a > {output}"
        rule b:
            input: "a.txt"
            output: "b.txt"
            shell: "cat {input} {input} > {output}"
        rule c:
            input: rules.b.output
            output: "c.txt"
            shell: "sort {input} > {output}"
        """
    ),
    "wildcards": Case(
        """
        rule all:
            input: expand("out/{x}-{y}.txt", x=["a", "b"], y=range(2))
        rule make:
            output: "out/{x}-{y}.txt"
            shell: "echo {wildcards.x} {wildcards.y} > {output}"
        """
    ),
    "wildcard_constraints": Case(
        r"""
        wildcard_constraints:
            n=r"\d+"
        rule all:
            input: "a.1.txt", "a.b.txt"
        rule numbers:
            output: "{name}.{n}.txt"
            shell: "echo number {wildcards.n} > {output}"
        rule letters:
            output: "{name}.{letter,[a-z]}.txt"
            shell: "echo letter {wildcards.letter} > {output}"
        """
    ),
    "named_inputs": Case(
        """
        rule all:
            input: "sum.txt"
        rule parts:
            output: first="1.txt", second="2.txt"
            shell: "echo 1 > {output.first}; echo 2 > {output.second}"
        rule sum:
            input: **rules.parts.output
            output: "sum.txt"
            shell: "cat {input.second} {input.first} > {output}"
        """
    ),
    "input_function": Case(
        """
        def sources(wildcards):
            return [f"{wildcards.name}.{n}.in" for n in (1, 2)]
        rule all:
            input: "x.out"
        rule source:
            output: touch("{name}.{n}.in")
        rule join:
            input: sources
            output: "{name}.out"
            shell: "echo {input} > {output}"
        """
    ),
    "params_function": Case(
        """
        rule all:
            input: "3.txt"
        rule count:
            output: "{n}.txt"
            params: twice=lambda wildcards: int(wildcards.n) * 2, out=lambda w, output: output[0]
            shell: "echo {params.twice} {params.out} > {output}"
        """
    ),
    "unpack": Case(
        """
        def both(wildcards):
            return {"left": "l.txt", "right": "r.txt"}
        rule all:
            input: "joined.txt"
        rule make:
            output: "{side,l|r}.txt"
            shell: "echo {wildcards.side} > {output}"
        rule join:
            input: unpack(both)
            output: "joined.txt"
            shell: "cat {input.left} {input.right} > {output}"
        """
    ),
    "config_from_params": Case(
        """
        rule all:
            input: "greeting.txt"
        rule greet:
            output: "greeting.txt"
            params: who=config["who"], times=config["nested"]["times"]
            shell: "for i in $(seq {params.times}); do echo hello {params.who}; done > {output}"
        """,
        params={"who": "wörld", "nested": {"times": 2}},
    ),
    "configfile": Case(
        """
        configfile: "config/config.yaml"
        rule all:
            output: "o.txt"
            params: a=config["a"], b=config["b"]
            shell: "echo {params.a} {params.b} > {output}"
        """,
        {"config/config.yaml": "a: file\nb: file\n"},
        params={"b": "given"},
    ),
    "configfile_missing": Case(
        """
        configfile: "config/none.yaml"
        rule all:
            output: touch("o.txt")
        """
    ),
    "config_validated": Case(
        """
        from snakemake.utils import validate
        validate(config, "schema.yaml")
        rule all:
            output: "o.txt"
            params: n=config["n"]
            shell: "echo {params.n} > {output}"
        """,
        {"schema.yaml": "type: object\nproperties:\n  n:\n    type: integer\n    default: 7\n"},
    ),
    "config_refused": Case(
        """
        from snakemake.utils import validate
        validate(config, "schema.yaml")
        rule all:
            output: touch("o.txt")
        """,
        {"schema.yaml": "type: object\nproperties:\n  n:\n    type: integer\nrequired: [n]\n"},
        params={"n": "seven"},
    ),
    "include": Case(
        """
        include: "rules/a.smk"
        rule all:
            input: rules.a.output
            default_target: True
        """,
        {"rules/a.smk": 'rule a:\n    output: "a.txt"\n    shell: "echo a > {output}"\n'},
    ),
    "module": Case(
        """
        module other:
            snakefile: "other/Snakefile"
            config: config
            prefix: "results"
        use rule * from other as other_*
        use rule make from other as mine with:
            params: word="mine"
            output: "mine.txt"
        rule all:
            input: "results/o.txt", "results/mine.txt"
            default_target: True
        """,
        {
            "other/Snakefile": 'rule make:\n    output: "o.txt"\n    params: word="other"\n'
            '    shell: "echo {params.word} > {output}"\n'
        },
    ),
    "inheritance": Case(
        """
        rule all:
            input: "a.txt", "b.txt"
        rule a:
            output: "a.txt"
            params: word="a"
            shell: "echo {params.word} > {output}"
        use rule a as b with:
            output: "b.txt"
            params: word="b"
        """
    ),
    "checkpoint": Case(
        """
        def parts(wildcards):
            folder = checkpoints.split.get(**wildcards).output[0]
            names = glob_wildcards(os.path.join(folder, "{name}.txt")).name
            return expand("done/{name}.txt", name=sorted(names))
        rule all:
            input: "all.txt"
        checkpoint split:
            output: directory("parts")
            shell: "mkdir {output}; for n in 1 2 3; do echo $n > {output}/p$n.txt; done"
        rule work:
            input: "parts/{name}.txt"
            output: "done/{name}.txt"
            shell: "cat {input} {input} > {output}"
        rule join:
            input: parts
            output: "all.txt"
            shell: "cat {input} > {output}"
        """
    ),
    "two_checkpoints": Case(
        """
        def second(wildcards):
            with checkpoints.first.get().output[0].open() as file:
                return [f"{line.strip()}.second" for line in file]
        def third(wildcards):
            return [f"{name}.third" for name in ("a", "b") if checkpoints.second.get(name=name)]
        rule all:
            input: second, third
        checkpoint first:
            output: "names.txt"
            shell: "printf 'a\\nb\\n' > {output}"
        checkpoint second:
            output: "{name}.second"
            shell: "echo {wildcards.name} > {output}"
        rule third:
            input: "{name}.second"
            output: "{name}.third"
            shell: "cp {input} {output}"
        """
    ),
    "scatter_gather": Case(
        """
        scattergather:
            split=3
        rule all:
            input: "joined.txt"
        rule scatter:
            output: scatter.split("split/{scatteritem}.txt")
            shell: "for f in {output}; do echo $f > $f; done"
        rule work:
            input: "split/{scatteritem}.txt"
            output: "work/{scatteritem}.txt"
            shell: "cp {input} {output}"
        rule gather:
            input: gather.split("work/{scatteritem}.txt")
            output: "joined.txt"
            shell: "cat {input} > {output}"
        """
    ),
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
    "notemp": Case(
        """
        rule all:
            input: "b.txt"
        rule a:
            output: temp("a.txt")
            shell: "echo a > {output}"
        rule b:
            input: "a.txt"
            output: "b.txt"
            shell: "cp {input} {output}"
        """,
        engine={"notemp": "true"},
        flags=("--notemp",),
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
    "keep_going": Case(
        """
        rule all:
            input: "good.txt", "bad.txt"
        rule good:
            output: "good.txt"
            shell: "sleep 0.2; echo good > {output}"
        rule bad:
            output: "bad.txt"
            shell: "exit 1"
        """,
        engine={"keep_going": "true"},
        flags=("--keep-going",),
    ),
    "missing_input": Case(
        """
        rule all:
            input: "nowhere.txt"
        """
    ),
    "missing_output": Case(
        """
        rule all:
            output: "never.txt"
            shell: "true"
        """,
        flags=("--latency-wait", "0"),
    ),
    "ambiguous": Case(
        """
        rule all:
            input: "a.txt"
        rule one:
            output: "{x}.txt"
            shell: "echo one > {output}"
        rule two:
            output: "a.{y}"
            shell: "echo two > {output}"
        """
    ),
    "ruleorder": Case(
        """
        ruleorder: two > one
        rule all:
            input: "a.txt"
        rule one:
            output: "{x}.txt"
            shell: "echo one > {output}"
        rule two:
            output: "a.{y}"
            shell: "echo two > {output}"
        """
    ),
    "cycle": Case(
        """
        rule all:
            input: "a.txt"
        rule a:
            input: "b.txt"
            output: "a.txt"
            shell: "cp {input} {output}"
        rule b:
            input: "a.txt"
            output: "b.txt"
            shell: "cp {input} {output}"
        """
    ),
    "syntax_error": Case(
        """
        rule all
            output: "a.txt"
        """
    ),
    "python_error": Case(
        """
        values = {}
        rule all:
            output: values["missing"]
            shell: "true"
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
    "default_target": Case(
        """
        rule first:
            output: "first.txt"
            shell: "echo first > {output}"
        rule second:
            output: "second.txt"
            default_target: True
            shell: "echo second > {output}"
        """
    ),
    "targets": Case(
        """
        rule all:
            input: "a.txt", "b.txt"
        rule make:
            output: "{x}.txt"
            shell: "echo {wildcards.x} > {output}"
        """,
        engine={"targets": "b.txt"},
        flags=("b.txt",),
    ),
    "until": Case(
        """
        rule all:
            input: "b.txt"
        rule a:
            output: "a.txt"
            shell: "echo a > {output}"
        rule b:
            input: "a.txt"
            output: "b.txt"
            shell: "cp {input} {output}"
        """,
        engine={"until": "a"},
        flags=("--until", "a"),
    ),
    "omit_from": Case(
        """
        rule all:
            input: "b.txt"
        rule a:
            output: "a.txt"
            shell: "echo a > {output}"
        rule b:
            input: "a.txt"
            output: "b.txt"
            shell: "cp {input} {output}"
        """,
        engine={"omit_from": "b"},
        flags=("--omit-from", "b"),
    ),
    "lookup_and_branch": Case(
        """
        rule all:
            output: branch(config["yes"], then="yes.txt", otherwise="no.txt")
            params: deep=lookup(dpath="a/b", within=config)
            shell: "echo {params.deep} > {output}"
        """,
        params={"yes": True, "a": {"b": "deep"}},
    ),
    "glob": Case(
        """
        NAMES = sorted(glob_wildcards("data/{name}.in").name)
        rule all:
            input: collect("{name}.out", name=NAMES)
        rule make:
            input: "data/{name}.in"
            output: "{name}.out"
            shell: "cp {input} {output}"
        """,
        {"data/a.in": "a\n", "data/b.in": "b\n"},
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
    "own_python_module": Case(
        """
        import sys
        sys.path.insert(0, workflow.basedir)
        from lib.names import NAME
        rule all:
            output: f"{NAME}.txt"
            shell: "echo {NAME} > {output}"
        """,
        {"lib/__init__.py": "", "lib/names.py": 'NAME = "from_module"\n'},
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
    "large_output": Case(
        """
        rule all:
            output: "big.bin"
            shell: "head -c 3000000 /dev/zero > {output}"
        """
    ),
    "pep": Case(
        """
        pepfile: "pep/config.yaml"
        rule all:
            input: expand("{sample}.txt", sample=pep.sample_table["sample_name"])
        rule make:
            output: "{sample}.txt"
            shell: "echo {wildcards.sample} > {output}"
        """,
        {
            "pep/config.yaml": "pep_version: 2.1.0\nsample_table: samples.csv\n",
            "pep/samples.csv": "sample_name,type\nx,a\ny,b\n",
        },
    ),
    "standard_error_of_the_snakefile": Case(
        """
        shell("echo begins > /dev/stderr; echo begins > /dev/stdout")
        rule all:
            output: "said.txt"
            run:
                shell("echo runs > /dev/stderr; echo runs > {output}")
        """
    ),
    "no_workflow_profile": Case(
        """
        rule all:
            output: "threads.txt"
            threads: 1
            shell: "echo {threads} > {output}"
        """,
        {"profiles/default/config.yaml": "set-threads: [all=2]\n"},
        engine={"workflow_profile": "none"},
        flags=("--workflow-profile", "none"),
    ),
    "workflow_profile_by_default": Case(
        """
        rule all:
            output: "threads.txt"
            threads: 1
            shell: "echo {threads} > {output}"
        """,
        {"profiles/default/config.yaml": "set-threads: [all=2]\n"},
    ),
    "config_of_several_sources": Case(
        """
        configfile: "own.yaml"
        rule all:
            output: "told.txt"
            params: told=repr(sorted(config["block"].items()))
            shell: "echo {params.told:q} > {output}"
        """,
        {"own.yaml": "block: {a: own, b: own, c: own}\n"},
        params={"block": {"b": "params", "c": "params"}},
        engine={"config": '["block={c: config}"]'},
        flags=("--config", "block={c: config}"),
    ),
    "hooks_of_modules": Case(
        """
        module other:
            snakefile: "other/Snakefile"
        use rule * from other as other_*
        rule all:
            default_target: True
            input: "made.txt"
        onstart:
            other.onstart()
        onsuccess:
            other.onsuccess()
        """,
        {
            "other/Snakefile": "onstart: shell('echo s > started.txt')\n"
            "onsuccess: shell('echo e > ended.txt')\n"
            "rule make:\n    output: 'made.txt'\n    shell: 'echo m > {output}'\n",
        },
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
