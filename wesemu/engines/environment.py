"""Which environment variables hold secrets, by their names and values."""

import re

_PREFIXES = (
    *("AWS_", "OSS_", "ALIBABA_", "ALIBABACLOUD_", "ALIYUN_", "ALICLOUD_", "AZURE_", "VAULT_"),
    *("DOCKER_AUTH", "TWINE_"),
)
_NAMES = frozenset(
    {"ACCESSKEYID", "ACCESSKEYSECRET", "SSH_AUTH_SOCK", "PGPASSFILE", "NETRC", "KUBECONFIG"}
)
_WORD = re.compile(
    r"(^|_)(TOKENS?|SECRETS?|PASSWORDS?|PASSWD|PASSPHRASE|CREDENTIALS?|AUTH|APIKEY)(_|$)"
    r"|(API|ACCESS|SECRET|PRIVATE|SIGNING|ENCRYPTION|ACCOUNT)_?KEYS?(_|$)"
    r"|CONNECTION_STRING|(TOKEN|SECRET|PASSWORD|PASSWD)$"
)
_USER_IN_URL = re.compile(r"^[a-z][a-z0-9+.-]*://[^/\s:@]*:[^/\s@]+@", re.IGNORECASE)


def looks_secret(name: str, value: str) -> bool:
    """Whether a variable is the kind that holds credentials: a cloud's own variables, a name such
    as `DB_PASSWORD` or `accessKeySecret`, or a URL with a password in it. A proxy's URL is let
    through, because tools need it."""
    folded = name.upper()
    if folded.startswith(_PREFIXES) or folded in _NAMES or _WORD.search(folded):
        return True
    return bool(_USER_IN_URL.match(value)) and not folded.endswith("_PROXY")
