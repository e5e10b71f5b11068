"""Rules and how they form the graph of jobs."""

from suites.snakemake_cases.case import Case

RULES: dict[str, Case] = {
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
    "missing_input": Case(
        """
        rule all:
            input: "nowhere.txt"
        """
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
    "standard_error_of_the_snakefile": Case(
        """
        shell("echo begins > /dev/stderr; echo begins > /dev/stdout")
        rule all:
            output: "said.txt"
            run:
                shell("echo runs > /dev/stderr; echo runs > {output}")
        """
    ),
}
