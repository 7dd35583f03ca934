"""The listener for other servers, as an administrator sets it up."""

import json
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from homeserver.config import ConfigError, load
from tests.federation.servers import PORT
from tests.federation_transport.network import CA, new_address
from tests.server_process import REPOSITORY, ServerProcess

Files = dict[str, str]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """Files for TLS by name, good and bad."""
    paths = {name: tmp_path / f"{name}.pem" for name in ("certificate", "key", "other", "text", "encrypted")}
    issued = CA.issue_cert("127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(paths["certificate"])
    issued.private_key_pem.write_to_path(paths["key"])
    trustme.CA().issue_cert("127.0.0.1").private_key_pem.write_to_path(paths["other"])
    paths["text"].write_text("no certificate")
    key = load_pem_private_key(issued.private_key_pem.bytes(), None)
    secret = BestAvailableEncryption(b"secret")
    paths["encrypted"].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, secret))
    return {name: str(path) for name, path in {**paths, "absent": tmp_path / "absent.pem"}.items()}


def complaint(**options: str) -> str:
    """What is said of a configuration that is wrong."""
    environ = {f"WEFT_{name.upper()}": value for name, value in options.items()}
    with pytest.raises(ConfigError) as caught:
        load(None, {"WEFT_SERVER_NAME": "example.org", **environ})
    return str(caught.value)


@pytest.mark.parametrize(
    ("certificate", "key", "said"),
    [
        ("absent", "key", "cannot read {absent}: No such file or directory; name a file"),
        ("certificate", "absent", "cannot read {absent}"),
        ("certificate", "other", "{other} is not the key of {certificate}"),
        ("text", "key", "{text} and {key} cannot be used"),
        ("certificate", "text", "{certificate} and {text} cannot be used"),
        ("certificate", "encrypted", "with its key, not encrypted"),
    ],
)
def test_wrong_files_are_named_with_the_remedy(files: Files, certificate: str, key: str, said: str) -> None:
    problem = complaint(
        federation_listen="127.0.0.1:8448",
        federation_tls_certificate=files[certificate],
        federation_tls_key=files[key],
    )
    assert "federation.tls.certificate: " in problem
    assert said.format(**files) in problem


def test_options_that_need_each_other_say_so(files: Files) -> None:
    certificate = files["certificate"]
    problem = complaint(federation_listen="127.0.0.1:8448", federation_tls_certificate=certificate)
    assert "needs federation.tls.key beside it" in problem
    problem = complaint(federation_tls_certificate=certificate, federation_tls_key=files["key"])
    assert "is for federation.listen" in problem


def test_authorities_are_read_before_they_are_needed(files: Files) -> None:
    assert f"egress.ca: cannot read {files['absent']}" in complaint(egress_ca=files["absent"])
    assert f"egress.ca: {files['text']} holds no certificates" in complaint(egress_ca=files["text"])


def test_a_server_as_installed_shows_its_keys_over_tls(tmp_path: Path) -> None:
    name = new_address()
    issued = CA.issue_cert(name)
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    certificate.write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(key)
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    server = ServerProcess(
        data,
        WEFT_SERVER_NAME=name,
        WEFT_FEDERATION_LISTEN=f"{name}:{PORT}",
        WEFT_FEDERATION_TLS_CERTIFICATE=str(certificate),
        WEFT_FEDERATION_TLS_KEY=str(key),
    )
    trust = ssl.create_default_context()
    CA.configure_trust(trust)

    def keys() -> Any:
        with urlopen(f"https://{name}:{PORT}/_matrix/key/v2/server", timeout=10, context=trust) as answer:
            return json.load(answer)

    server.start()
    try:
        ((old, key_before),) = keys()["verify_keys"].items()
        with pytest.raises(URLError, match="CERTIFICATE_VERIFY_FAILED"):
            urlopen(
                f"https://{name}:{PORT}/_matrix/key/v2/server",
                timeout=10,
                context=ssl.create_default_context(),
            )
        server.stop()
        (data / "signing.key").rename(tmp_path / "old.key")
        weft = [sys.executable, "-m", "homeserver", "replace-signing-key", "--dev"]
        subprocess.run(weft, cwd=REPOSITORY, env=server.variables, check=True, capture_output=True)
        server.start()
        answer = keys()
    finally:
        server.stop()
    assert old not in answer["verify_keys"]
    assert answer["old_verify_keys"][old]["key"] == key_before["key"]
