"""What counts as a credential, and what stays."""

import json

import pytest

from wesemu.redaction import strike, strike_text, strike_urls

SIGNATURE = "b" * 20 + "0123456789ab"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (
            "https://b.s3.amazonaws.com/a_1.fq.gz?versionId=3&X-Amz-Credential=AKIA%2F2026"
            f"&X-Amz-Signature={SIGNATURE}",
            "https://b.s3.amazonaws.com/a_1.fq.gz?versionId=3&X-Amz-Credential=REDACTED"
            "&X-Amz-Signature=REDACTED",
        ),
        (
            "https://b.oss-cn-shenzhen.aliyuncs.com/a?OSSAccessKeyId=LTAI1&Expires=9&Signature=x%3D",
            "https://b.oss-cn-shenzhen.aliyuncs.com/a?OSSAccessKeyId=REDACTED&Expires=9"
            "&Signature=REDACTED",
        ),
        (
            "https://b.oss-cn-shenzhen.aliyuncs.com/a?x-oss-credential=L&x-oss-signature=12",
            "https://b.oss-cn-shenzhen.aliyuncs.com/a?x-oss-credential=REDACTED"
            "&x-oss-signature=REDACTED",
        ),
        (
            "https://s.blob.core.windows.net/c/a.bam?sv=2022-11-02&sr=b&sig=ab%2Bc%3D",
            "https://s.blob.core.windows.net/c/a.bam?sv=2022-11-02&sr=b&sig=REDACTED",
        ),
        (
            "https://h/f?token=abc#sha256=" + "0" * 64,
            "https://h/f?token=REDACTED#sha256=" + "0" * 64,
        ),
        ("https://h/f#access_token=abc", "https://h/f#access_token=REDACTED"),
        ("https://joe:pw@h:8080/f", "https://REDACTED@h:8080/f"),
        ("git+ssh://ghp_abc@h/f", "git+ssh://REDACTED@h/f"),
        (f"https://h/f?thing={SIGNATURE}", "https://h/f?thing=REDACTED"),
        ("https://h/f?u=https%3A%2F%2Fg%2F%3Fsig%3Dx", "https://h/f?u=REDACTED"),
        ("https:\\/\\/h\\/f?a=1\\u0026sig=x", "https:\\/\\/h\\/f?a=1\\u0026sig=REDACTED"),
        ("https://h/f?a=1&amp;sig=x", "https://h/f?a=1&amp;sig=REDACTED"),
    ],
)
def test_what_opens_a_url_is_struck_out(url: str, shown: str) -> None:
    assert strike_urls(url) == shown
    assert strike_urls(f"wget '{url}' -O x") == f"wget '{shown}' -O x"
    assert strike_urls(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "oss://genes/fastq/a_1.fq.gz",
        "https://zenodo.org/records/7?download=1&name=reads_of_sample_number_12_lane_3_1.fq.gz",
        f"https://b.s3.amazonaws.com/a?versionId={SIGNATURE}",
        "https://h/f#sha256=" + "a1" * 32,
        "https://www.ebi.ac.uk/ena/api?accession=SRR000001&author=x",
        "see https://example.org, or mail joe@example.org?subject=token",
        "@RG\\tID:token=1",
    ],
)
def test_what_opens_nothing_stays(text: str) -> None:
    assert strike_urls(text) == text


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("curl -H 'Authorization: Bearer abc' u", "curl -H 'Authorization: Bearer REDACTED' u"),
        ('curl -H "x-api-key: abc" u', 'curl -H "x-api-key: REDACTED" u'),
        ("AWS_SECRET_ACCESS_KEY=abc aws s3", "AWS_SECRET_ACCESS_KEY=REDACTED aws s3"),
        ("tool --token=abc --in x", "tool --token=REDACTED --in x"),
        ("tool --token=$TOKEN", "tool --token=$TOKEN"),
    ],
)
def test_what_a_command_shows_is_struck_out(command: str, shown: str) -> None:
    assert strike_text(command) == shown


def test_a_value_whose_key_names_a_secret_is_struck_out_at_any_depth() -> None:
    told = strike({"a": [{"apiKey": "x", "aws_secret_access_key": "y", "author": "z"}], "token": 3})
    assert told == {
        "a": [{"apiKey": "REDACTED", "aws_secret_access_key": "REDACTED", "author": "z"}],
        "token": 3,
    }


def test_json_stays_json() -> None:
    value = {"reads": [f"https://joe:pw@h/a?sig=x{chr(1)}"], "n": 1.5, "none": None}
    told = json.loads(strike_text(json.dumps(value)))
    assert told == {**value, "reads": ["https://REDACTED@h/a?sig=REDACTED"]}
