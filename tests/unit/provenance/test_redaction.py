"""What counts as a credential, and what stays readable."""

import json

import pytest

from wesemu.provenance.redaction import redact, redact_text, redact_urls
from wesemu.runs.model import JsonObject

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
        ("https://h/f?sig\\u003da\\u002Bb\\u003d", "https://h/f?sig\\u003dREDACTED"),
        (f"https://h/f?n={SIGNATURE}\\u002b", "https://h/f?n=REDACTED"),
        ("https://h/f?sig=a\\/b&n=1", "https://h/f?sig=REDACTED&n=1"),
    ],
)
def test_credentials_in_a_url_are_redacted(url: str, shown: str) -> None:
    assert redact_urls(url) == shown
    assert redact_urls(f"wget '{url}' -O x") == f"wget '{shown}' -O x"
    assert redact_urls(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "oss://genes/fastq/a_1.fq.gz",
        "https://zenodo.org/records/7?download=1&name=reads_of_sample_number_12_lane_3_1.fq.gz",
        f"https://b.s3.amazonaws.com/a?versionId={SIGNATURE}",
        "https://h/f#sha256=" + "a1" * 32,
        "https://h/data?id=3f2504e0-4f89-41d3-9a0c-0305e82c3301",
        "https://www.ebi.ac.uk/ena/api?accession=SRR000001&author=x",
        "see https://example.org, or mail joe@example.org?subject=token",
        "@RG\\tID:token=1",
    ],
)
def test_what_opens_nothing_stays(text: str) -> None:
    assert redact_urls(text) == text


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("curl -H 'Authorization: Bearer abc' u", "curl -H 'Authorization: REDACTED' u"),
        ('curl -H "authorization: ApiKey abc" u', 'curl -H "authorization: REDACTED" u'),
        ("-H 'Authorization: acs LTAI:abc=' u", "-H 'Authorization: REDACTED' u"),
        (
            '-H \'Authorization: Digest username="joe", response="abc"\' u',
            "-H 'Authorization: REDACTED' u",
        ),
        (
            "Authorization: AWS4-HMAC-SHA256 Credential=AKIA/s3, Signature=abc\nHost: h",
            "Authorization: REDACTED\nHost: h",
        ),
        ("{'Authorization': 'OSS LTAI:abc', 'A': 'b'}", "{'Authorization': 'REDACTED', 'A': 'b'}"),
        ('curl -H "x-api-key: abc" u', 'curl -H "x-api-key: REDACTED" u'),
        ("-H 'X-Goog-Api-Key: abc' u", "-H 'X-Goog-Api-Key: REDACTED' u"),
        ("-H 'X-OSS-Security-Token: abc' u", "-H 'X-OSS-Security-Token: REDACTED' u"),
        ("--header='Cookie: a=b; c=d' u", "--header='Cookie: REDACTED' u"),
        ('sh -c "curl -H \\"Token: a b\\" u"', 'sh -c "curl -H \\"Token: REDACTED\\" u"'),
        ("AWS_SECRET_ACCESS_KEY=abc aws s3", "AWS_SECRET_ACCESS_KEY=REDACTED aws s3"),
        ("AWS_ACCESS_KEY_ID=abc aws s3", "AWS_ACCESS_KEY_ID=REDACTED aws s3"),
        ("SECRET='a \"b\" c' x", "SECRET='REDACTED' x"),
        ('PASSWORD_2="a \\"b\\" c" x', 'PASSWORD_2="REDACTED" x'),
        ("PASSWORD='$ecret' x", "PASSWORD='REDACTED' x"),
        ("get /f?token=abc&n=1", "get /f?token=REDACTED&n=1"),
        ("tool --token=abc --in x", "tool --token=REDACTED --in x"),
        ("tool --db-password abc --in x", "tool --db-password REDACTED --in x"),
        ("tool --api-key 'a b' --in x", "tool --api-key 'REDACTED' --in x"),
        ("curl -u joe:abc u", "curl -u joe:REDACTED u"),
        ("curl --user 'joe:a b' u", "curl --user 'joe:REDACTED' u"),
    ],
)
def test_credentials_in_a_command_are_redacted(command: str, shown: str) -> None:
    assert redact_text(command) == shown
    assert redact_text(shown) == shown


@pytest.mark.parametrize(
    "command",
    [
        "tool --token=$TOKEN --password \"${PASSWORD}\" --token '' --secret",
        "tool --max-tokens 512 max_tokens=512 tokenizer=foo",
        "tool --token-file=/run/x --password-stdin",
        "if token==5",
        "unexpected token: end of line",
        "docker run -u 1000:1000 image",
        "samtools view -u chr1:100-200",
    ],
)
def test_what_a_command_may_show_stays(command: str) -> None:
    assert redact_text(command) == command


@pytest.mark.parametrize(
    "value",
    [
        {"apiKey": "x", "aws_secret_access_key": "y"},
        {"password": ["s3cret"], "api_keys": ["x", 2]},
        {"credentials": {"value": "s3cret"}, "passwords": "x"},
        {"password": 1234, "tokens": 0.5},
    ],
)
def test_a_value_whose_key_names_a_secret_is_redacted_at_any_depth(value: JsonObject) -> None:
    assert redact({"a": [value, "b"]}) == {"a": [dict.fromkeys(value, "REDACTED"), "b"]}


def test_names_that_differ_in_their_credentials_only_stay_apart() -> None:
    url = "https://h/a.fq?sig="
    names = [f"{url}REDACTED-2", f"{url}a", f"{url}b", f"{url}c"]
    redacted = redact({name: [number] for number, name in enumerate(names)})
    assert redacted == {
        f"{url}REDACTED": [0],
        f"{url}REDACTED-2": [1],
        f"{url}REDACTED-3": [2],
        f"{url}REDACTED-4": [3],
    }


def test_counts_switches_and_what_is_empty_are_no_secrets() -> None:
    value: JsonObject = {
        "author": "z", "max_tokens": 512, "tokens": "512", "use_token": True, "token": "",
        "secret": None, "credentials": [], "password": False,
    }  # fmt: skip
    assert redact(value) == value


def test_urls_in_urls_are_looked_through_to_a_depth() -> None:
    assert redact_urls("https://h/?a=://h/?a=://h/?a=b") == "https://h/?a=://h/?a=://h/?a=b"
    assert redact_urls("https://h/?a=://h/?a=://h/?sig=b") == "https://h/?a=REDACTED"
    assert redact_urls("https://h/?a=" + "://?a=" * 300) == "https://h/?a=REDACTED"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('curl "https://h/f?sig=abc" -o x', 'curl "https://h/f?sig=REDACTED" -o x'),
        ("https://h/f?token=abc\nnext", "https://h/f?token=REDACTED\nnext"),
    ],
)
def test_what_json_escapes_is_not_of_the_url(text: str, shown: str) -> None:
    assert json.loads(redact_urls(json.dumps({"cmd": text}))) == {"cmd": shown}


def test_json_stays_json() -> None:
    value = {"reads": [f"https://joe:pw@h/a?sig=x{chr(1)}"], "n": 1.5, "none": None}
    told = json.loads(redact_text(json.dumps(value)))
    assert told == {**value, "reads": [f"https://REDACTED@h/a?sig=REDACTED{chr(1)}"]}
