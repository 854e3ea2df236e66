"""A server that asks for a token, and one that speaks TLS."""

from __future__ import annotations

import http.client
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from moesaic.host import Session
from moesaic.host.serving.access import LEAST_CHARACTERS, Access, read_access
from moesaic.host.serving.limits import Limits
from moesaic.spec.bundle import Bundle
from moesaic.spec.errors import UserError
from tests.host.serving import WAIT_SECONDS, Running, binary_request, frames, serving, two_tasks

TOKEN = "correct-horse-battery"


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return two_tasks()


@pytest.fixture(scope="module")
def guarded(bundle: Bundle) -> Iterator[Running]:
    with serving(Session(bundle, ["cpu"]), Limits(), Access(TOKEN)) as running:
        yield running


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"Authorization": TOKEN},
        {"Authorization": f"bearer{TOKEN}"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": f"Bearer {TOKEN[:-1]}"},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": f"Bearer {TOKEN}, Bearer {TOKEN}"},
    ],
)
@pytest.mark.parametrize("path", ["/v2", "/metrics", "/v2/models/seg", "/none", "/v2/health/livex"])
def test_refused_without_the_token(guarded: Running, given: dict[str, str], path: str) -> None:
    reply = guarded.ask("GET", path, headers=given)
    assert reply.status == 401 and "Bearer TOKEN" in reply.error
    assert reply.headers["WWW-Authenticate"] == "Bearer"


def test_health_is_open(guarded: Running) -> None:
    for path in ("/v2/health/live", "/v2/health/ready"):
        assert guarded.ask("GET", path).status == 200


def test_answers_whoever_has_it(guarded: Running, bundle: Bundle) -> None:
    body, headers = binary_request(frames(bundle, "seg"))
    token = {"Authorization": f"Bearer {TOKEN}"}
    path = "/v2/models/seg/infer"
    assert guarded.ask("POST", path, body, headers | token).status == 200
    assert guarded.ask("POST", path, body, headers).status == 401
    # The refused body does not become the next request on the connection.
    connection = guarded.connect()
    connection.request("POST", path, body, headers)
    assert connection.getresponse().read() and connection.sock is not None
    connection.request("GET", "/v2", headers=token)
    assert connection.getresponse().status == 200
    connection.close()


def test_tls_speaks_to_who_trusts_it(bundle: Bundle, pair: tuple[Path, Path]) -> None:
    access = read_access(None, *pair)
    assert access.scheme == "https"
    body, headers = binary_request(frames(bundle, "seg", 2))
    with serving(Session(bundle, ["cpu"]), Limits(), access) as running:
        trust = ssl.create_default_context(cafile=pair[0])
        connection = http.client.HTTPSConnection(
            "localhost", running.port, timeout=WAIT_SECONDS, context=trust
        )
        connection.request("POST", "/v2/models/seg/infer", body, headers)
        assert connection.getresponse().status == 200
        connection.close()
        with pytest.raises((http.client.HTTPException, OSError)):
            running.ask("GET", "/v2")
        strange = ssl.create_default_context()
        connection = http.client.HTTPSConnection("localhost", running.port, context=strange)
        with pytest.raises(ssl.SSLCertVerificationError):
            connection.request("GET", "/v2")


def test_bad_files_are_refused_in_a_sentence(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    certificate, key = pair
    text = tmp_path / "text.pem"
    text.write_text("no certificate")
    for given in ((certificate, None), (None, key)):
        with pytest.raises(UserError, match="go together"):
            read_access(None, *given)
    for given in ((text, key), (certificate, text), (key, certificate), (tmp_path / "none", key)):
        with pytest.raises(UserError, match="must be a certificate and its key"):
            read_access(None, *given)
    locked = tmp_path / "locked.pem"
    lock = ["openssl", "rsa", "-aes128", "-passout", "pass:secret", "-in", key, "-out", locked]
    subprocess.run(lock, check=True, capture_output=True)
    with pytest.raises(UserError, match="without a password"):
        read_access(None, certificate, locked)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b"", "at least"),
        (b"x" * (LEAST_CHARACTERS - 1), "at least"),
        (b"two words of a token", "without spaces"),
        (b"two-lines-of\na-token-here", "without spaces"),
        ("schlüssel-zum-geschäft".encode(), "in ASCII"),
    ],
)
def test_bad_tokens_are_refused(tmp_path: Path, text: bytes, sentence: str) -> None:
    path = tmp_path / "token"
    path.write_bytes(text)
    with pytest.raises(UserError, match=sentence):
        read_access(path, None, None)
    with pytest.raises(UserError, match="cannot be read"):
        read_access(tmp_path / "none", None, None)
    path.write_text(f"{TOKEN}\n")
    assert read_access(path, None, None).token == TOKEN
