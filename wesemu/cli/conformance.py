"""`wesemu conformance`: check any WES server, print a table, write JSON and JUnit XML."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from wesemu.cli.output import CommandRefused, ExitStatus, path_option

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

    from wesemu.conformance.checks import CheckResult, Report
    from wesemu.conformance.workflows import SampleWorkflow
    from wesemu.runs.model import JsonObject


def register(app: typer.Typer) -> None:
    app.command("conformance", rich_help_panel="Other servers")(conformance)


def conformance(
    url: Annotated[
        str,
        typer.Argument(
            metavar="URL", help="The server, or the root of its WES API.", show_default=False
        ),
    ],
    version: Annotated[
        Literal["0.3.0", "1.0.0", "1.0.1", "1.1.0"] | None,
        typer.Option(help="The version of WES.", show_default="as service-info says"),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(help="Bearer token for the server.", metavar="TOKEN", show_default=False),
    ] = None,
    workflow: Annotated[
        Path | None,
        path_option(help="A workflow to run instead of wesemu's own.", metavar="FILE"),
    ] = None,
    workflow_type: Annotated[
        str | None,
        typer.Option(
            help="Its type; without --workflow, the own workflow to run.",
            metavar="TYPE",
            show_default="the first that the server supports",
        ),
    ] = None,
    params: Annotated[
        Path | None,
        path_option(help="A JSON or YAML file of parameters for --workflow.", metavar="FILE"),
    ] = None,
    timeout: Annotated[
        str, typer.Option(help="The longest time for a run: 90s, 10m, 2h.", metavar="LENGTH")
    ] = "2m",
    json: Annotated[Path | None, path_option(help="Write JSON.", metavar="FILE")] = None,
    junit: Annotated[Path | None, path_option(help="Write JUnit XML.", metavar="FILE")] = None,
) -> None:
    """Check a WES server against the specification.

    It sends three small workflows and about fifty other requests. Ends with status 1 if a check of
    level MUST fails.
    """
    import asyncio
    from datetime import timedelta

    from wesemu.cli.admin import parse_length
    from wesemu.cli.output import print_note, sanitized_json
    from wesemu.client import ClientError
    from wesemu.conformance.checks import examine

    try:
        report = asyncio.run(
            examine(
                url,
                version=version,
                token=token,
                workflow=_own_workflow(workflow, workflow_type, params),
                workflow_type=workflow_type,
                seconds=timedelta(**parse_length(timeout)).total_seconds(),
                announce=print_note,
            )
        )
    except ClientError as error:
        raise CommandRefused(error.message, ExitStatus.UNREACHABLE) from error
    _print(report)
    if json is not None:
        json.write_text(sanitized_json(to_json(report)) + "\n", encoding="utf-8")
    if junit is not None:
        junit.write_bytes(to_junit(report))
    if not report.conforms:
        raise typer.Exit(ExitStatus.FAILED)


def _own_workflow(
    file: Path | None, workflow_type: str | None, params: Path | None
) -> "SampleWorkflow | None":
    """Return the user's workflow, None for those of wesemu."""
    from wesemu.cli.submit import parameters
    from wesemu.conformance.workflows import SampleWorkflow

    if file is None:
        if params is not None:
            raise CommandRefused("--params needs --workflow", ExitStatus.USAGE)
        return None
    if workflow_type is None:
        raise CommandRefused("--workflow needs --workflow-type", ExitStatus.USAGE)
    return SampleWorkflow(
        type=workflow_type,
        version="",
        url=file.name,
        files={file.name: file.read_bytes()},
        params=parameters(params, ()),
    )


def _print(report: "Report") -> None:
    from wesemu.cli.output import print_note, print_result, print_table, sanitize_cell
    from wesemu.conformance.checks import CheckOutcome

    print_table(
        ("RESULT", "LEVEL", "CHECK", "SECTION"),
        [
            (result.outcome.value, check.level.value, check.id, check.section)
            for result in report.results
            for check in (result.check,)
        ],
    )
    for result in report.results:
        if result.outcome is not CheckOutcome.PASS:
            reason, exchange = sanitize_cell(result.reason), sanitize_cell(result.exchange)
            print_result(f"{result.outcome.value} {result.check.id}: {reason}")
            if exchange:
                print_result(f"    {exchange}")
    print_note(_summary(report))


def _summary(report: "Report") -> str:
    from wesemu.conformance.checks import CheckOutcome
    from wesemu.conformance.evidence import Level

    required = report.count(CheckOutcome.FAIL, Level.MUST)
    return (
        f"WES {report.version}: {report.count(CheckOutcome.PASS)} checks passed, "
        f"{report.count(CheckOutcome.FAIL)} failed ({required} of level MUST), "
        f"{report.count(CheckOutcome.SKIP)} skipped"
    )


def to_json(report: "Report") -> "JsonObject":
    """Return the report as JSON (docs/conformance.md)."""
    from wesemu.conformance.checks import CheckOutcome

    return {
        "url": report.url,
        "version": report.version,
        "workflow_type": report.workflow_type,
        "conforms": report.conforms,
        "summary": {outcome.value: report.count(outcome) for outcome in CheckOutcome},
        "checks": [
            {
                "id": result.check.id,
                "title": result.check.title,
                "section": result.check.section,
                "level": result.check.level.value,
                "result": result.outcome.value,
                "reason": result.reason,
                "exchange": result.exchange,
            }
            for result in report.results
        ],
    }


def to_junit(report: "Report") -> bytes:
    """Return the report as JUnit XML. A failure of level SHOULD is skipped there, with its reason.

    So a build fails exactly if the verb ends with status 1.
    """
    from xml.etree import ElementTree as ET

    cases = ET.Element("testsuite", name=f"WES {report.version} conformance")
    for result in report.results:
        case = ET.SubElement(cases, "testcase", classname=f"wes.{result.check.section}")
        case.set("name", f"{result.check.id}: {result.check.title}")
        _add_outcome(case, result)
    cases.set("tests", str(len(report.results)))
    cases.set("failures", str(len(cases.findall("*/failure"))))
    cases.set("skipped", str(len(cases.findall("*/skipped"))))
    suites = ET.Element("testsuites")
    suites.append(cases)
    ET.indent(suites)
    content: bytes = ET.tostring(suites, encoding="utf-8", xml_declaration=True)
    return content + b"\n"


_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def _add_outcome(case: "Element", result: "CheckResult") -> None:
    from xml.etree import ElementTree as ET

    from wesemu.conformance.checks import CheckOutcome
    from wesemu.conformance.evidence import Level

    if result.outcome is CheckOutcome.PASS:
        return
    reason, exchange = (
        _NOT_IN_XML.sub("\ufffd", text) for text in (result.reason, result.exchange)
    )
    is_failure = result.outcome is CheckOutcome.FAIL and result.check.level is Level.MUST
    if result.outcome is CheckOutcome.FAIL and not is_failure:
        reason = f"failed, but is only recommended: {reason}"
    outcome = ET.SubElement(case, "failure" if is_failure else "skipped", message=reason)
    outcome.text = exchange
