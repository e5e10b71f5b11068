"""CWL 1.2: tools and workflows give the outputs that cwltool gives by itself."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from support.library_engines import needs_cwltool
from support.live_server import LiveServer, live_server_fixture
from support.preloaded_program import PreloadedProgram

pytestmark = needs_cwltool

WORDS = {"words.txt": "b\na\n"}
FILE = {"class": "File", "path": "words.txt"}

CASES: Mapping[str, tuple[str, Mapping[str, Any], Mapping[str, str]]] = {
    # name: (document, job order, other files)
    "stdout": (
        """
        class: CommandLineTool
        baseCommand: echo
        inputs: {word: {type: string, inputBinding: {position: 1}}}
        outputs: {said: stdout}
        stdout: said.txt
        """,
        {"word": "hi"},
        {},
    ),
    "stdin": (
        """
        class: CommandLineTool
        baseCommand: sort
        stdin: $(inputs.words.path)
        inputs: {words: File}
        outputs: {sorted: stdout}
        stdout: sorted.txt
        """,
        {"words": FILE},
        WORDS,
    ),
    "arguments_and_prefixes": (
        """
        class: CommandLineTool
        baseCommand: echo
        arguments: [{position: 0, valueFrom: "-n"}, {position: 9, valueFrom: "end"}]
        inputs:
          n: {type: int, inputBinding: {position: 1, prefix: -k}}
          f: {type: boolean, inputBinding: {position: 2, prefix: --flag}}
          xs: {type: 'string[]', inputBinding: {position: 3, itemSeparator: ","}}
        outputs: {said: stdout}
        stdout: said.txt
        """,
        {"n": 3, "f": True, "xs": ["a", "b"]},
        {},
    ),
    "defaults_and_optionals": (
        """
        class: CommandLineTool
        baseCommand: echo
        inputs:
          word: {type: string, default: none, inputBinding: {position: 1}}
          more: {type: 'string?', inputBinding: {position: 2}}
        outputs: {said: stdout}
        stdout: said.txt
        """,
        {},
        {},
    ),
    "enum": (
        """
        class: CommandLineTool
        baseCommand: echo
        inputs: {level: {type: {type: enum, symbols: [s, g]}, inputBinding: {position: 1}}}
        outputs: {said: stdout}
        stdout: said.txt
        """,
        {"level": "g"},
        {},
    ),
    "enum_refused": (
        """
        class: CommandLineTool
        baseCommand: echo
        inputs: {level: {type: {type: enum, symbols: [s, g]}, inputBinding: {position: 1}}}
        outputs: {said: stdout}
        """,
        {"level": "x"},
        {},
    ),
    "record": (
        """
        class: CommandLineTool
        baseCommand: echo
        inputs:
          r:
            type:
              type: record
              fields:
                a: {type: int, inputBinding: {prefix: -a}}
                b: {type: string, inputBinding: {prefix: -b}}
        outputs: {said: stdout}
        stdout: said.txt
        """,
        {"r": {"a": 1, "b": "x"}},
        {},
    ),
    "glob_of_several": (
        """
        class: CommandLineTool
        baseCommand: [sh, -c, 'for n in 1 2; do echo $n > part$n.txt; done']
        inputs: []
        outputs: {parts: {type: 'File[]', outputBinding: {glob: "part*.txt"}}}
        """,
        {},
        {},
    ),
    "output_eval": (
        """
        class: CommandLineTool
        requirements: {InlineJavascriptRequirement: {}}
        baseCommand: [sh, -c, 'echo 42 > n.txt']
        inputs: []
        outputs:
          n:
            type: int
            outputBinding:
              glob: n.txt
              loadContents: true
              outputEval: $(parseInt(self[0].contents))
        """,
        {},
        {},
    ),
    "secondary_files": (
        """
        class: CommandLineTool
        baseCommand: [sh, -c, 'cat $0 > o.bam; cat $0.bai > o.bam.bai']
        inputs:
          bam: {type: File, secondaryFiles: [.bai], inputBinding: {position: 1}}
        outputs:
          o: {type: File, secondaryFiles: [.bai], outputBinding: {glob: o.bam}}
        """,
        {"bam": {"class": "File", "path": "x.bam"}},
        {"x.bam": "bam\n", "x.bam.bai": "index\n"},
    ),
    "initial_work_dir": (
        """
        class: CommandLineTool
        requirements:
          InitialWorkDirRequirement:
            listing: [{entryname: script.sh, entry: "cat $(inputs.words.path) > made.txt"}]
        baseCommand: [sh, script.sh]
        inputs: {words: File}
        outputs: {made: {type: File, outputBinding: {glob: made.txt}}}
        """,
        {"words": FILE},
        WORDS,
    ),
    "environment_variable": (
        """
        class: CommandLineTool
        requirements: {EnvVarRequirement: {envDef: {WORD: $(inputs.word)}}}
        baseCommand: [sh, -c, 'echo $WORD']
        inputs: {word: string}
        outputs: {said: stdout}
        stdout: said.txt
        """,
        {"word": "w"},
        {},
    ),
    "shell_command": (
        """
        class: CommandLineTool
        requirements: {ShellCommandRequirement: {}}
        arguments: [{shellQuote: false, valueFrom: "echo a | tr a b"}]
        inputs: []
        outputs: {said: stdout}
        stdout: said.txt
        """,
        {},
        {},
    ),
    "success_codes": (
        """
        class: CommandLineTool
        baseCommand: [sh, -c, 'echo o; exit 4']
        successCodes: [4]
        inputs: []
        outputs: {said: stdout}
        stdout: said.txt
        """,
        {},
        {},
    ),
    "failing_tool": (
        """
        class: CommandLineTool
        baseCommand: [sh, -c, 'exit 4']
        inputs: []
        outputs: []
        """,
        {},
        {},
    ),
    "missing_output": (
        """
        class: CommandLineTool
        baseCommand: "true"
        inputs: []
        outputs: {o: {type: File, outputBinding: {glob: absent}}}
        """,
        {},
        {},
    ),
    "directory": (
        """
        class: CommandLineTool
        baseCommand: [sh, -c, 'mkdir -p d/e; echo 1 > d/a; echo 2 > d/e/b']
        inputs: []
        outputs: {d: {type: Directory, outputBinding: {glob: d}}}
        """,
        {},
        {},
    ),
    "expression_tool": (
        """
        class: ExpressionTool
        requirements: {InlineJavascriptRequirement: {}}
        inputs: {n: int}
        outputs: {twice: int}
        expression: '${ return {twice: inputs.n * 2}; }'
        """,
        {"n": 21},
        {},
    ),
    "expression_fails": (
        """
        class: ExpressionTool
        requirements: {InlineJavascriptRequirement: {}}
        inputs: []
        outputs: {n: int}
        expression: '${ throw "no such luck"; }'
        """,
        {},
        {},
    ),
    "workflow": (
        """
        class: Workflow
        inputs: {words: File}
        outputs: {sorted: {type: File, outputSource: sort/o}}
        steps:
          reverse: {in: {i: words}, out: [o], run: tools/reverse.cwl}
          sort:
            in: {i: reverse/o}
            out: [o]
            run:
              class: CommandLineTool
              baseCommand: sort
              inputs: {i: {type: File, inputBinding: {position: 1}}}
              outputs: {o: stdout}
              stdout: o.txt
        """,
        {"words": FILE},
        {
            **WORDS,
            "tools/reverse.cwl": "cwlVersion: v1.2\nclass: CommandLineTool\nbaseCommand: rev\n"
            "inputs: {i: {type: File, inputBinding: {position: 1}}}\noutputs: {o: stdout}\n"
            "stdout: r.txt\n",
        },
    ),
    "scatter": (
        """
        class: Workflow
        requirements: {ScatterFeatureRequirement: {}}
        inputs: {xs: 'string[]'}
        outputs: {all: {type: 'File[]', outputSource: each/o}}
        steps:
          each:
            scatter: x
            in: {x: xs}
            out: [o]
            run:
              class: CommandLineTool
              baseCommand: echo
              inputs: {x: {type: string, inputBinding: {position: 1}}}
              outputs: {o: stdout}
              stdout: $(inputs.x).txt
        """,
        {"xs": ["a", "b"]},
        {},
    ),
    "scatter_over_nothing": (
        """
        class: Workflow
        requirements: {ScatterFeatureRequirement: {}}
        inputs: {xs: 'string[]'}
        outputs: {all: {type: 'File[]', outputSource: each/o}}
        steps:
          each:
            scatter: x
            in: {x: xs}
            out: [o]
            run:
              class: CommandLineTool
              baseCommand: echo
              inputs: {x: {type: string, inputBinding: {position: 1}}}
              outputs: {o: stdout}
        """,
        {"xs": []},
        {},
    ),
    "conditional": (
        """
        class: Workflow
        requirements: {InlineJavascriptRequirement: {}, MultipleInputFeatureRequirement: {}}
        inputs: {yes: boolean}
        outputs: {o: {type: 'string?', outputSource: say/o}}
        steps:
          say:
            when: $(inputs.yes)
            in: {yes: yes}
            out: [o]
            run:
              class: ExpressionTool
              inputs: {yes: boolean}
              outputs: {o: string}
              expression: '${ return {o: "said"}; }'
        """,
        {"yes": False},
        {},
    ),
    "sub_workflow": (
        """
        class: Workflow
        requirements: {SubworkflowFeatureRequirement: {}}
        inputs: {word: string}
        outputs: {o: {type: File, outputSource: inner/o}}
        steps:
          inner:
            in: {word: word}
            out: [o]
            run:
              class: Workflow
              inputs: {word: string}
              outputs: {o: {type: File, outputSource: say/o}}
              steps:
                say:
                  in: {word: word}
                  out: [o]
                  run:
                    class: CommandLineTool
                    baseCommand: echo
                    inputs: {word: {type: string, inputBinding: {position: 1}}}
                    outputs: {o: stdout}
                    stdout: o.txt
        """,
        {"word": "deep"},
        {},
    ),
    "merge_of_sources": (
        """
        class: Workflow
        requirements: {MultipleInputFeatureRequirement: {}}
        inputs: {a: File, b: File}
        outputs: {o: {type: File, outputSource: cat/o}}
        steps:
          cat:
            in: {fs: {source: [a, b], linkMerge: merge_flattened}}
            out: [o]
            run:
              class: CommandLineTool
              baseCommand: cat
              inputs: {fs: {type: 'File[]', inputBinding: {position: 1}}}
              outputs: {o: stdout}
              stdout: o.txt
        """,
        {"a": FILE, "b": FILE},
        WORDS,
    ),
    "value_from_in_a_step": (
        """
        class: Workflow
        requirements: {StepInputExpressionRequirement: {}}
        inputs: {words: File}
        outputs: {o: {type: File, outputSource: say/o}}
        steps:
          say:
            in: {name: {source: words, valueFrom: $(self.basename)}}
            out: [o]
            run:
              class: CommandLineTool
              baseCommand: echo
              inputs: {name: {type: string, inputBinding: {position: 1}}}
              outputs: {o: stdout}
              stdout: o.txt
        """,
        {"words": FILE},
        WORDS,
    ),
    "wrong_input_type": (
        """
        class: CommandLineTool
        baseCommand: echo
        inputs: {n: {type: int, inputBinding: {position: 1}}}
        outputs: []
        """,
        {"n": "many"},
        {},
    ),
    "not_cwl": ("class: Nonsense\n", {}, {}),
}


server = live_server_fixture()


@pytest.fixture(scope="module")
def cwltool() -> Iterator[PreloadedProgram]:
    with PreloadedProgram("cwltool.main", "run") as program:
        yield program


def plainly(
    cwltool: PreloadedProgram,
    document: str,
    order: Mapping[str, Any],
    files: Mapping[str, str],
    at: Path,
) -> Any:
    """cwltool's outputs with what says where files lie left out; None where it fails."""
    written = {"flow.cwl": document, "order.json": json.dumps(order), **files}
    for name, text in written.items():
        (at / name).parent.mkdir(parents=True, exist_ok=True)
        (at / name).write_text(text)
    argv = ["--quiet", "--no-container", "--outdir", "out", "flow.cwl", "order.json"]
    done = cwltool.run(argv, cwd=at, env=os.environ)
    return without_places(json.loads(done.stdout)) if done.returncode == 0 else None


def without_places(value: Any) -> Any:
    if isinstance(value, list):
        return sorted((without_places(item) for item in value), key=json.dumps)
    if isinstance(value, dict):
        compared = ("class", "basename", "size", "checksum", "secondaryFiles", "listing")
        named = value.get("class") in ("File", "Directory")
        kept = {name: item for name, item in value.items() if not named or name in compared}
        return {name: without_places(item) for name, item in sorted(kept.items())}
    return value


@pytest.mark.parametrize("name", CASES)
def test_outputs_are_those_of_cwltool(
    server: LiveServer, cwltool: PreloadedProgram, tmp_path: Path, name: str
) -> None:
    text, order, files = CASES[name]
    document = "cwlVersion: v1.2\n" + dedent(text).lstrip()
    expected = plainly(cwltool, document, order, files, tmp_path)
    answer = server.post("CWL", document, files, params=order)
    if answer.status_code == 400:
        assert expected is None
        return
    run = server.wait(answer.json()["run_id"])
    if expected is None:
        assert run.state == "EXECUTOR_ERROR"
        assert run.error["message"]
        return
    assert run.state == "COMPLETE", run.log("stderr")
    assert without_places(json.loads(run.text("out/outputs.json"))) == expected
