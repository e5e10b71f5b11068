"""boto3, a client of S3, gets an error that names the right API, and stores nothing."""

import asyncio
from pathlib import Path

import pytest
from api.oss.fixtures import KEY_ID, SECRET
from conformance.oss.conftest import collect

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


async def test_boto3_is_refused(endpoint: str, bucket: Path) -> None:
    boto3 = pytest.importorskip("boto3", reason="boto3 is not installed (the extra s3)")
    from botocore.config import Config
    from botocore.exceptions import ClientError

    def act() -> list[ClientError]:
        client = boto3.client(
            "s3",
            endpoint_url=endpoint,
            aws_access_key_id=KEY_ID,
            aws_secret_access_key=SECRET,
            region_name="us-east-1",
            config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 1}),
        )
        refused = []
        for call in (
            client.list_buckets,
            lambda: client.put_object(Bucket="genes", Key="a", Body=b"abc"),
            lambda: client.get_object(Bucket="genes", Key="a"),
            lambda: client.list_objects_v2(Bucket="genes"),
        ):
            with pytest.raises(ClientError) as told:
                call()
            refused.append(told.value)
        client.close()
        return refused

    for error in await asyncio.to_thread(act):
        assert error.response["Error"]["Code"] == "NotImplemented"
        assert "Alibaba Cloud OSS, not that of S3" in error.response["Error"]["Message"]
    assert not (bucket / "a").exists()
    collect()
