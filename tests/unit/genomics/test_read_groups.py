"""Read groups are checked in one place, from every source."""

import pytest

from wesemu.errors import InvalidRequest
from wesemu.genomics.read_groups import (
    check_for_freebayes,
    complete_read_groups,
    libraries,
    parse_read_group,
)


@pytest.mark.parametrize(
    "text",
    [
        "@RG\tID:x\tSM:y z\tPL:MGISEQ2000",
        r"@RG\tID:x\tSM:y z\tPL:MGISEQ2000",
        r'"@RG\tID:x\tSM:y z\tPL:MGISEQ2000"',
        '"@RG\tID:x\\tSM:y z\tPL:MGISEQ2000"',
    ],
)
def test_tabs_may_be_escaped_and_quotes_surround_the_line(text):
    group = parse_read_group(text)
    assert group.line == "@RG\tID:x\tSM:y z\tPL:MGISEQ2000"
    assert (group.id, group.sample, group.library) == ("x", "y z", "y z")


@pytest.mark.parametrize(
    "field", ["XX:unknown", "xx:user", "X1:2", "DS:a PL:b", "PU:a:b:c", "LB:-"]
)
def test_other_tags_and_signs_are_kept(field):
    assert parse_read_group(f"@RG\tID:x\t{field}").line == f"@RG\tID:x\t{field}"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("@RG\tSM:s", "it has no ID"),
        ("@RG\tID:", "the tag ID has no value"),
        ("@RG\tID:x\tSM:", "the tag SM has no value"),
        ("@RG\tID:x\tSM:  ", "the tag SM has no value"),
        ("@RG\tID:x\tID:y", "the tag ID is there twice"),
        ("@RG\tID:x\tSM:y\tPU:1\tSM:y", "the tag SM is there twice"),
        ("@RG\tID:{a}", "braces"),
        ("@RG\tID:x\tLB:a}", "braces"),
        ("@RG\tID:a\nb", "one line"),
        ("@RG\tID:a\r\n", "one line"),
        (r"@RG\tID:a\nSM:b", "a backslash"),
        (r"@RG\tID:a\\tSM:b", "a backslash"),
        ("@RG\tID:ä", "ASCII"),
        ("@RG\tID:x\tSM:样本", "ASCII"),
        ("@RG\tID:\x07", "ASCII"),
        ("@RG\tID:x\tsm:y", "must be written SM"),
        ("@RG\tid:x", "must be written ID"),
        ("@RG\tID:x\t", "TAG:VALUE"),
        ("@RG\t\tID:x", "TAG:VALUE"),
        ("@RG\tID:x\tSM", "TAG:VALUE"),
        ("@RG\tID:x\tSAMPLE:y", "TAG:VALUE"),
        ("@RG\tID:x\t1D:y", "TAG:VALUE"),
        ("@RG\tID:x SM:y", "a tab must stand before SM:"),
        ("@RG\tID:x\tSM:y ", "begins or ends with a blank"),
        ("@RG ID:x SM:y", "begin with @RG and a tab"),
        ("ID:x", "begin with @RG and a tab"),
        ("@RG", "begin with @RG and a tab"),
        ("", "begin with @RG and a tab"),
        ("'@RG\tID:x'", "begin with @RG and a tab"),
        ('"@RG\tID:x', "begin with @RG and a tab"),
        ('@RG\tID:x"', "a double quote that has no partner"),
        ('""@RG\tID:x""', "begin with @RG and a tab"),
    ],
)
def test_what_is_no_read_group_is_refused_with_the_reason(text, words):
    with pytest.raises(InvalidRequest, match="not a read group") as caught:
        parse_read_group(text)
    assert words in caught.value.message
    assert caught.value.field == "read_group"


def test_missing_read_groups_are_made_and_the_sample_is_added():
    groups = complete_read_groups([None, "@RG\tID:other\tPL:ILLUMINA"], "two")
    assert [group.line for group in groups] == [
        "@RG\tID:two.L1\tLB:two\tPL:ILLUMINA\tPU:two.L1\tSM:two",
        "@RG\tID:other\tPL:ILLUMINA\tSM:two",
    ]


@pytest.mark.parametrize("sample", ["{a}", "a\\b", "ä"])
def test_a_sample_that_no_read_group_can_hold_is_refused(sample):
    with pytest.raises(InvalidRequest, match="not a read group") as caught:
        complete_read_groups([None], sample)
    assert caught.value.field == "sample"


def test_a_lane_without_a_sample_is_of_the_other_lanes_sample():
    groups = complete_read_groups([None, "@RG\tID:x\tSM:NA12878", "@RG\tID:y"])
    assert [group.sample for group in groups] == ["NA12878"] * 3
    assert groups[0].id == "NA12878.L1"


@pytest.mark.parametrize(
    ("texts", "sample", "field", "words"),
    [
        (
            ["@RG\tID:x\tSM:a", None, "@RG\tID:y\tSM:b"],
            "sample",
            "reads.2.read_group",
            "the read group of reads.0 names the sample 'a', the read group of reads.2 the "
            "sample 'b'",
        ),
        (
            [None, "@RG\tID:y\tSM:b"],
            "a",
            "reads.1.read_group",
            "the parameter sample names the sample 'a', the read group of reads.1 the sample 'b'",
        ),
        (
            ["@RG\tID:x\tSM:a", "@RG\tID:x\tSM:a\tLB:2"],
            "sample",
            "reads.1.read_group",
            "reads.0 and reads.1 have the same read group ID 'x'",
        ),
        (
            ["@RG\tID:a.L2", None],
            "a",
            "reads.1.read_group",
            "reads.0 and reads.1 have the same read group ID 'a.L2'",
        ),
    ],
)
def test_lanes_that_contradict_each_other_are_refused(texts, sample, field, words):
    with pytest.raises(InvalidRequest) as caught:
        complete_read_groups(texts, sample)
    assert words in caught.value.message
    assert caught.value.field == field


@pytest.mark.parametrize("fields", ["ID:a 1\tSM:s", "ID:a\tSM:s 1", "ID:a\tSM:s\tDS:as SM:t"])
def test_read_groups_that_freebayes_misreads_are_refused(fields):
    with pytest.raises(InvalidRequest, match="it takes blanks for tabs") as caught:
        check_for_freebayes(complete_read_groups([f"@RG\t{fields}"]))
    assert caught.value.field == "reads.0.read_group"
    check_for_freebayes(complete_read_groups(["@RG\tID:a\tLB:l b\tDS:ID:x y", None], "s"))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (["LB:a", "LB:b"], ["a", "b"]),
        (["LB:a", "LB:b", "LB:a"], ["a", "b"]),
        (["PU:1", "PU:2"], ["s"]),
        (["PU:1", "LB:s"], ["s"]),
        (["PU:1", "LB:t"], ["s", "t"]),
    ],
)
def test_lanes_without_a_library_are_of_one_that_is_named_as_the_sample(fields, expected):
    groups = complete_read_groups(
        [f"@RG\tID:{number}\tSM:s\t{field}" for number, field in enumerate(fields)]
    )
    assert libraries(groups) == expected
