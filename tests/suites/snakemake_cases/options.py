"""Configuration, profiles and options of the command line."""

from suites.snakemake_cases.case import Case

OPTIONS: dict[str, Case] = {
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
        needs=("peppy",),
    ),
    "storage_without_its_plugin": Case(
        """
        storage:
            provider="absent"
        rule all:
            input: storage.absent("absent://source.txt")
            output: touch("o.txt")
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
}
