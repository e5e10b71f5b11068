"""Which requests belong to OSS, and which to the other APIs."""

from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient
from api.oss.fixtures import Client as OssClient
from api.oss.fixtures import read
from pytest_aiohttp import AiohttpClient

Client = TestClient[web.Request, web.Application]
V1 = {"Authorization": "OSS LTAIexample:c2lnbmF0dXJl"}


@pytest.fixture
def filled(bucket: Path) -> Path:
    (bucket / "gs").mkdir()
    (bucket / "gs" / "a").write_bytes(b"abc")
    (bucket / "a").write_bytes(b"abc")
    return bucket


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/oss/genes/a", {}),
        ("/genes/a", V1),
        ("/genes/a", {"Authorization": "OSS4-HMAC-SHA256 Credential=x"}),
        ("/genes/a", {"x-oss-date": "20260301T120000Z"}),
        ("/genes/a", {"User-Agent": "aliyun-sdk-python/2.19.1(Linux)"}),
        ("/genes/a", {"User-Agent": "alibabacloud-python-sdk-v2/1.4.1"}),
        ("/genes/a?OSSAccessKeyId=x&Expires=1&Signature=y", {}),
        ("/genes/a?x-oss-signature=y", {}),
        ("/a", {"Host": "genes.localhost:8070", **V1}),
        ("/a", {"Host": "genes.oss-cn-shenzhen.aliyuncs.com", **V1}),
        ("/genes/a", {"Host": "oss-cn-shenzhen.aliyuncs.com", **V1}),
        ("/genes/a", {"Host": "wesemu.example.org", **V1}),
        ("/genes/a", {"Host": "wesemu:8070", **V1}),
        ("/genes/a", {"Host": "[::1]:8070", **V1}),
        ("/oss/genes/a", {"Host": "wesemu.example.org"}),
    ],
)
async def test_an_object_is_found_however_it_is_addressed(
    client: OssClient, filled: Path, path: str, headers: dict[str, str]
) -> None:
    got = await read(await client.get(path, headers=headers))
    assert (got.status, got.body) == (200, b"abc")


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/genes/a", {}),
        ("/genes/a", {"Authorization": "Bearer x"}),
        ("/genes/a", {"User-Agent": "AlibabaCloud (Linux; x86_64) Python/3.11"}),
        ("/a", {"Host": "genes.localhost:8070"}),
        ("/ossian", {}),
        ("/", {}),
    ],
)
async def test_what_nobody_else_could_mean_is_left_to_the_others(
    client: OssClient, filled: Path, path: str, headers: dict[str, str]
) -> None:
    got = await read(await client.get(path, headers=headers))
    assert got.body == b"another API"


async def test_a_bucket_can_be_made_by_its_host(client: OssClient, root: Path) -> None:
    headers = {"Host": "new-one.localhost:8070", **V1}
    assert (await client.put("/", headers=headers)).status == 200
    assert (root / "new-one").is_dir()
    got = await read(await client.get("/", headers=headers))
    assert got.xml.tag == "ListBucketResult"


async def test_a_bucket_may_be_named_like_an_endpoint(client: OssClient, root: Path) -> None:
    headers = {"Host": "oss-data.oss-cn-shenzhen.aliyuncs.com", **V1}
    assert (await client.put("/", headers=headers)).status == 200
    assert (await client.put("/a", data=b"abc", headers=headers)).status == 200
    assert (root / "oss-data" / "a").read_bytes() == b"abc"


async def test_a_parameter_with_two_values_is_refused(client: OssClient, filled: Path) -> None:
    got = await read(await client.get("/oss/genes?prefix=a&prefix=b"))
    assert (got.status, got.code) == (400, "InvalidArgument")
    assert got.xml.findtext("Message") == "prefix: it has two values; send one of them"
    assert (await client.get("/oss/genes?prefix=a&prefix=a")).status == 200


async def test_buckets_are_listed_at_the_top(client: OssClient) -> None:
    got = await read(await client.get("/", headers=V1))
    assert got.xml.findtext("Buckets/Bucket/Name") == "genes"


@pytest.fixture
async def whole(aiohttp_client: AiohttpClient, app: web.Application) -> Client:
    """The whole server; `genes` is one of its buckets."""
    return await aiohttp_client(app)


@pytest.mark.parametrize("headers", [V1, {"User-Agent": "aliyun-sdk-go/v3.0.2/ossutil-v1.7.19"}])
@pytest.mark.parametrize("path", ["/", "/?marker&prefix"])
async def test_oss_clients_list_buckets_where_browsers_get_the_dashboard(
    whole: Client, path: str, headers: dict[str, str]
) -> None:
    got = await read(await whole.get(path, headers=headers, allow_redirects=False))
    assert got.xml.findtext("Buckets/Bucket/Name") == "genes"
    browser = await whole.get(path, allow_redirects=False)
    assert (browser.status, browser.headers["Location"]) == (303, "./ui/")


@pytest.mark.parametrize(
    "headers",
    [{}, V1, {"x-oss-date": "x"}, {"User-Agent": "aliyun-sdk-python/2.19.1"}],
)
async def test_their_paths_stay_theirs(whole: Client, headers: dict[str, str]) -> None:
    jobs = await whole.get("/gs/workflows", headers=headers)
    assert await jobs.json() == {"jobs": []}
    for prefix in ("", "/1.1.0"):
        info = await whole.get(f"{prefix}/ga4gh/wes/v1/service-info", headers=headers)
        assert "workflow_engine_versions" in await info.json()
    health = await whole.get("/_wesemu/health", headers=headers)
    assert health.status == 200
    missing = await whole.get("/gs/nothing", headers=headers)
    assert (await missing.json())["Code"] == "InvalidAction.NotFound"


async def test_a_signed_request_to_a_bucket_s_host_is_oss_s(whole: Client) -> None:
    headers = {"Host": "genes.localhost", **V1}
    assert (await whole.put("/gs/workflows", data=b"abc", headers=headers)).status == 200
    got = await read(await whole.get("/gs/workflows", headers=headers))
    assert got.body == b"abc"
    unsigned = await whole.get("/gs/workflows", headers={"Host": "genes.localhost"})
    assert await unsigned.json() == {"jobs": []}


async def test_errors_of_the_prefix_are_oss_s(whole: Client) -> None:
    got = await read(await whole.get("/oss/missing/a"))
    assert (got.status, got.code) == (404, "NoSuchBucket")


async def test_pipelines_and_the_door_share_the_buckets(whole: Client) -> None:
    got = await read(await whole.get("/oss/genes/fastq/a_1.fq.gz"))
    assert got.body == b"one"
