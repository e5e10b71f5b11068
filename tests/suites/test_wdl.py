"""WDL 1.0 and 1.1: tasks and workflows give the outputs that the specification says."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from support.library_engines import needs_miniwdl
from support.live_server import LiveServer, live_server_fixture

pytestmark = needs_miniwdl

FAILS = object()
"""The expected outputs of a workflow that must fail."""

CASES: Mapping[str, tuple[str, Mapping[str, Any], Mapping[str, str], Any]] = {
    # name: (document, inputs, other files, outputs; a file's content in place of its path)
    "stdout_of_a_task": (
        """
        version 1.0
        task t {
          input { String who = "you" }
          command <<< echo hello ~{who} >>>
          output { File greeting = stdout() }
        }
        """,
        {"who": "me"},
        {},
        {"t.greeting": "hello me\n"},
    ),
    "default_input": (
        """
        version 1.0
        task t {
          input { String who = "you" }
          command <<< echo ~{who} >>>
          output { String greeting = read_string(stdout()) }
        }
        """,
        {},
        {},
        {"t.greeting": "you"},
    ),
    "numbers_and_booleans": (
        """
        version 1.0
        task t {
          input { Int n  Float x  Boolean b }
          command <<< echo ~{n + 1} >>>
          output { Int m = read_int(stdout())  Float y = x * 2  Boolean c = !b }
        }
        """,
        {"n": 41, "x": 0.5, "b": True},
        {},
        {"t.m": 42, "t.y": 1.0, "t.c": False},
    ),
    "arrays_and_sep": (
        """
        version 1.0
        task t {
          input { Array[Int] xs }
          command <<< echo ~{sep="-" xs} >>>
          output { String joined = read_string(stdout())  Int n = length(xs) }
        }
        """,
        {"xs": [1, 2, 3]},
        {},
        {"t.joined": "1-2-3", "t.n": 3},
    ),
    "maps_and_pairs": (
        """
        version 1.0
        task t {
          input { Map[String, Int] m  Pair[String, Int] p }
          command <<< cat ~{write_map(m)} >>>
          output { Map[String, Int] again = read_map(stdout())  String l = p.left }
        }
        """,
        {"m": {"a": 1}, "p": {"left": "l", "right": 2}},
        {},
        {"t.again": {"a": 1}, "t.l": "l"},
    ),
    "structs": (
        """
        version 1.0
        struct Sample { String name  Int lanes }
        task t {
          input { Sample s }
          command <<< echo ~{s.name} ~{s.lanes} >>>
          output { String shown = read_string(stdout()) }
        }
        """,
        {"s": {"name": "NA1", "lanes": 2}},
        {},
        {"t.shown": "NA1 2"},
    ),
    "optional_input": (
        """
        version 1.0
        task t {
          input { String? word }
          command <<< echo ~{default="none" word} >>>
          output { String shown = read_string(stdout())  Boolean given = defined(word) }
        }
        """,
        {},
        {},
        {"t.shown": "none", "t.given": False},
    ),
    "glob": (
        """
        version 1.0
        task t {
          command <<< for n in 1 2 3; do echo $n > part-$n.txt; done >>>
          output { Array[File] parts = glob("part-*.txt") }
        }
        """,
        {},
        {},
        {"t.parts": ["1\n", "2\n", "3\n"]},
    ),
    "optional_output": (
        """
        version 1.0
        task t {
          command <<< true >>>
          output { File? absent = "absent.txt" }
        }
        """,
        {},
        {},
        {"t.absent": None},
    ),
    "missing_output": (
        """
        version 1.0
        task t {
          command <<< true >>>
          output { File absent = "absent.txt" }
        }
        """,
        {},
        {},
        FAILS,
    ),
    "file_input": (
        """
        version 1.0
        task t {
          input { File reads }
          command <<< wc -l < ~{reads} >>>
          output { Int lines = read_int(stdout())  String name = basename(reads, ".txt") }
        }
        """,
        {"reads": "data/reads.txt"},
        {"data/reads.txt": "a\nb\n"},
        {"t.lines": 2, "t.name": "reads"},
    ),
    "inputs_are_files_for_archives": (
        """
        version 1.1
        task t {
          input { File reads }
          command <<<
            set -e
            mkdir d; cp -a ~{reads} d/; cp -r d e; tar cf x.tar d e; rm -r d e
            tar xf x.tar; cat d/* e/*
          >>>
          output { String both = read_string(stdout()) }
        }
        """,
        {"reads": "data/reads.txt"},
        {"data/reads.txt": "a\n"},
        {"t.both": "a\na"},
    ),
    "chain_of_calls": (
        """
        version 1.0
        task one { command <<< echo 1 > o.txt >>> output { File o = "o.txt" } }
        task two {
          input { File i }
          command <<< cat ~{i} ~{i} >>>
          output { File o = stdout() }
        }
        workflow w {
          call one
          call two { input: i = one.o }
          output { File o = two.o }
        }
        """,
        {},
        {},
        {"w.o": "1\n1\n"},
    ),
    "scatter": (
        """
        version 1.0
        task square {
          input { Int n }
          command <<< echo $((~{n} * ~{n})) >>>
          output { Int s = read_int(stdout()) }
        }
        workflow w {
          input { Array[Int] ns }
          scatter (n in ns) { call square { input: n = n } }
          output { Array[Int] squares = square.s }
        }
        """,
        {"ns": [1, 2, 3]},
        {},
        {"w.squares": [1, 4, 9]},
    ),
    "conditional": (
        """
        version 1.0
        task say { command <<< echo said >>> output { String s = read_string(stdout()) } }
        workflow w {
          input { Boolean yes }
          if (yes) { call say }
          output { String? s = say.s }
        }
        """,
        {"yes": False},
        {},
        {"w.s": None},
    ),
    "sub_workflow_and_imports": (
        """
        version 1.0
        import "lib/sub.wdl" as lib
        workflow w {
          call lib.inner { input: word = "in" }
          output { String s = inner.s }
        }
        """,
        {},
        {
            "lib/sub.wdl": 'version 1.0\nimport "tasks.wdl" as t\nworkflow inner {\n'
            "  input { String word }\n  call t.say { input: word = word }\n"
            "  output { String s = say.s }\n}\n",
            "lib/tasks.wdl": "version 1.0\ntask say {\n  input { String word }\n"
            "  command <<< echo ~{word} >>>\n  output { String s = read_string(stdout()) }\n}\n",
        },
        {"w.s": "in"},
    ),
    "read_and_write_tables": (
        """
        version 1.0
        task t {
          input { Array[Array[String]] rows }
          command <<< cat ~{write_tsv(rows)} >>>
          output { Array[Array[String]] again = read_tsv(stdout()) }
        }
        """,
        {"rows": [["a", "b"], ["c", "d"]]},
        {},
        {"t.again": [["a", "b"], ["c", "d"]]},
    ),
    "read_json": (
        """
        version 1.1
        struct Counts { Int reads  Int mapped }
        task t {
          command <<< echo '{"reads": 10, "mapped": 9}' >>>
          output { Counts counts = read_json(stdout()) }
        }
        """,
        {},
        {},
        {"t.counts": {"reads": 10, "mapped": 9}},
    ),
    "string_functions": (
        """
        version 1.1
        workflow w {
          input { String name }
          output {
            String replaced = sub(name, "_R1", "_R2")
            String joined = sep(",", ["a", "b"])
            Array[String] quoted = prefix("-i ", ["x"])
            Int largest = max(2, 3)
          }
        }
        """,
        {"name": "s_R1.fq"},
        {},
        {"w.replaced": "s_R2.fq", "w.joined": "a,b", "w.quoted": ["-i x"], "w.largest": 3},
    ),
    "zip_and_select": (
        """
        version 1.0
        workflow w {
          input { String? a }
          output {
            Array[Pair[Int, String]] zipped = zip([1, 2], ["x", "y"])
            String first = select_first([a, "b"])
          }
        }
        """,
        {},
        {},
        {"w.zipped": [{"left": 1, "right": "x"}, {"left": 2, "right": "y"}], "w.first": "b"},
    ),
    "failing_task": (
        """
        version 1.0
        task t { command <<< echo why >&2; exit 3 >>> output { } }
        """,
        {},
        {},
        FAILS,
    ),
    "retries": (
        """
        version 1.0
        task t {
          command <<< exit 1 >>>
          runtime { maxRetries: 1 }
          output { }
        }
        """,
        {},
        {},
        FAILS,
    ),
    "allowed_exit_status": (
        """
        version 1.1
        task t {
          command <<< echo found; exit 3 >>>
          runtime { returnCodes: [0, 3] }
          output { String s = read_string(stdout()) }
        }
        """,
        {},
        {},
        {"t.s": "found"},
    ),
    "stderr_is_an_output": (
        """
        version 1.0
        task t {
          command <<< echo out; echo err >&2 >>>
          output { File e = stderr() }
        }
        """,
        {},
        {},
        {"t.e": "err\n"},
    ),
    "unknown_input": (
        """
        version 1.0
        task t { command <<< true >>> output { Int one = 1 } }
        """,
        {"nothing": 1},
        {},
        FAILS,
    ),
    "type_error": (
        """
        version 1.0
        task t { input { Int n } command <<< true >>> output { String s = n - "x" } }
        """,
        {"n": 1},
        {},
        FAILS,
    ),
}


server = live_server_fixture()


def with_contents(value: Any, folder: Path) -> Any:
    """The outputs with the content of each file in place of its path."""
    match value:
        case list():
            return [with_contents(item, folder) for item in value]
        case dict():
            return {name: with_contents(item, folder) for name, item in value.items()}
        case str() if (folder / value).is_file():
            return (folder / value).read_text()
        case _:
            return value


@pytest.mark.parametrize("name", CASES)
def test_outputs_are_those_of_the_specification(server: LiveServer, name: str) -> None:
    document, inputs, files, expected = CASES[name]
    answer = server.post("WDL", document, files, params=inputs)
    if answer.status_code == 400:
        assert expected is FAILS
        return
    run = server.wait(answer.json()["run_id"])
    if expected is FAILS:
        assert run.state == "EXECUTOR_ERROR"
        assert run.error["message"]
        return
    assert run.state == "COMPLETE", run.log("stderr")
    outputs = json.loads(run.text("out/outputs.json"))
    assert with_contents(outputs, run.folder / "work" / "out") == expected
