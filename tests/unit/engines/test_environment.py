"""The environment variables of the server that tasks get."""

import os
from pathlib import Path

import pytest

from wesemu.engines.execution import tools_environment
from wesemu.engines.launch_spec import looks_secret
from wesemu.engines.snakemake.worker import is_writable


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, "x") for name in ("AWS_PROFILE", "AWS_SECRET_ACCESS_KEY", "OSS_ACCESS_KEY_ID")),
        *((name, "x") for name in ("ALIBABA_CLOUD_ACCESS_KEY_SECRET", "ALIYUN_ACCESS_KEY_ID")),
        *((name, "x") for name in ("accessKeyID", "accessKeySecret", "GITHUB_TOKEN", "token")),
        *((name, "x") for name in ("DB_PASSWORD", "PGPASSWORD", "MYSQL_PWD_SECRET", "API_KEY")),
        *((name, "x") for name in ("GOOGLE_APPLICATION_CREDENTIALS", "OPENAI_API_KEY")),
        *((name, "x") for name in ("SSH_AUTH_SOCK", "SLACK_WEBHOOK_SECRET", "NPM_TOKEN")),
        *((name, "x") for name in ("AZURE_STORAGE_CONNECTION_STRING", "HF_TOKEN", "VAULT_ADDR")),
        ("DATABASE_URL", "postgres://me:secret@db/x"),
        ("PIP_INDEX_URL", "https://me:secret@index/simple"),
    ],
)
def test_secrets_do_not_reach_tasks(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    assert looks_secret(name, value)
    assert name not in tools_environment({})
    assert tools_environment({}, passed=[f"{name[:2]}*"])[name] == value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, "x") for name in ("PATH", "HOME", "LANG", "CONDA_PREFIX", "SLURM_JOB_ID")),
        *((name, "x") for name in ("TOKENIZERS_PARALLELISM", "KEYBOARD", "AUTHOR", "MONKEY")),
        *((name, "x") for name in ("OSSIFY", "XAUTHORITY", "CUDA_VISIBLE_DEVICES", "GPG_KEY")),
        ("https_proxy", "http://me:secret@proxy:3128"),
        ("HTTP_PROXY", "http://me:secret@proxy:3128"),
        ("PIP_INDEX_URL", "https://index/simple"),
        ("R_LIBS", "/a:/b@c"),
    ],
)
def test_other_variables_reach_tasks(name: str, value: str) -> None:
    assert not looks_secret(name, value)


def test_settings_of_the_server_never_reach_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WESEMU_AUTH__TOKENS", "{}")
    assert "WESEMU_AUTH__TOKENS" not in tools_environment({}, passed=["*"])


def test_a_user_without_an_entry_in_passwd_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with `docker run --user 12345`; Snakemake would end with a KeyError."""
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    assert "LOGNAME" not in tools_environment({})
    monkeypatch.setattr(os, "getuid", lambda: 2_000_000_001)
    assert tools_environment({})["LOGNAME"] == "2000000001"


def test_a_folder_that_cannot_be_examined_counts_as_missing(tmp_path: Path) -> None:
    """Path.exists raises OSError for the first, as it does below another user's home."""
    assert is_writable(tmp_path / ("x" * 300) / "cache")
    assert is_writable(tmp_path / "new" / "cache")
