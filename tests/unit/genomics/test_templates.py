"""Templates of own mappers: quoting, and refusals at the start of the server."""

import pytest
from pydantic import ValidationError

from wesemu.errors import InvalidRequest
from wesemu.genomics.mappers import check_template, fill, uses_gpu
from wesemu.settings import Settings

GOOD = "mapper -t {threads} -g {gpus} -R {read_group} {reference} {first} {second}"
VALUES = {
    "threads": "8",
    "gpus": "2",
    "read_group": r"@RG\tID:a b\tSM:$(rm -rf .)",
    "reference": "/r/it's a genome.fa",
    "first": "/in/a {first};1.fq",
    "second": "/in/`b`.fq",
}


def test_a_path_stays_one_word_whatever_it_holds() -> None:
    check_template("mine", GOOD)
    assert fill("mine", GOOD, VALUES) == [
        *("mapper", "-t", "8", "-g", "2", "-R", VALUES["read_group"]),
        *(VALUES["reference"], VALUES["first"], VALUES["second"]),
    ]


def test_words_may_have_quotes_and_options_an_equals_sign() -> None:
    template = "'my mapper' --rg={read_group} --json '{{}}' {reference} {reads}"
    check_template("mine", template)
    assert fill("mine", template, VALUES) == [
        *("my mapper", f"--rg={VALUES['read_group']}", "--json", "{}"),
        *(VALUES["reference"], VALUES["first"], VALUES["second"]),
    ]


def test_only_a_mapper_whose_command_names_gpus_requests_one() -> None:
    assert uses_gpu("mine", GOOD)
    assert not uses_gpu("mine", "m {reference} {read_group} {reads} '{{gpus}}'")


@pytest.mark.parametrize(
    ("template", "told"),
    [
        (
            GOOD.replace("{threads}", "{cores}"),
            r"\{cores\} is not a placeholder; use one of \{reads\}",
        ),
        (GOOD.replace("{threads}", "{}"), r"\{\} is not a placeholder"),
        (GOOD.replace("{threads}", "{threads!r}"), "not a placeholder"),
        (GOOD.replace("{threads}", "{reference.x}"), "not a placeholder"),
        (GOOD.replace("{threads}", "{threads"), "cannot be read"),
        (GOOD + " | samtools view", "'|' needs a shell"),
        ("m {read_group} {reads}", r"no \{reference\}"),
        ("m {reference} {reads}", r"no \{read_group\}"),
        ("m {reference} {read_group} {first}", "names no reads"),
        ("m {reference} {read_group} --in={reads}", "a separate argument"),
        ("m 'it", "cannot be read"),
        ("", "is empty"),
    ],
)
def test_a_template_that_cannot_work_is_refused(template: str, told: str) -> None:
    with pytest.raises(InvalidRequest, match=told):
        check_template("mine", template)


@pytest.mark.parametrize(
    ("mappers", "told"),
    [
        ({"mine": GOOD.replace("{threads}", "{cores}")}, "{cores} is not a placeholder"),
        ({"two words": GOOD}, "not a mapper's name"),
        ({"bwa": GOOD}, "choose another name"),
    ],
)
def test_settings_are_refused_at_the_start(mappers, told: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Settings.model_validate({"mappers": mappers})
    assert told in str(caught.value)
    assert Settings.model_validate({"mappers": {"mine": GOOD}}).mappers == {"mine": GOOD}
