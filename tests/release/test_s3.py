"""Objects in buckets, of moto's S3; and what happens when an endpoint is not what it seems."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from io import BytesIO
from typing import Any
from urllib.parse import quote

import boto3  # type: ignore[import-untyped]
import pytest
from moto.server import ThreadedMotoServer

from overseer_py.errors import ConfigError, FetchError
from overseer_py.release.candidate import Candidate, Limits
from overseer_py.release.s3 import S3Source
from overseer_py.release.sources import open_source
from tests.master import PATIENCE
from tests.release.servers import (
    Answer,
    Server,
    body,
    endless,
    nobody,
    redirect,
    trickle,
    trickled_headers,
    truncated,
)

SECRET = "wJalrXUtnFEMI-secret"
DATE = "Fri, 02 Jan 2026 03:04:05 GMT"


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let boto3 find these, and nothing of the machine's."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """Give the address of moto's S3."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(endpoint: str) -> Iterator[Any]:
    """Give a client of it, and a bucket ``releases`` in which all versions are kept."""
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
    client.create_bucket(Bucket="releases")
    client.put_bucket_versioning(Bucket="releases", VersioningConfiguration={"Status": "Enabled"})
    yield client
    for version in client.list_object_versions(Bucket="releases").get("Versions", ()):
        client.delete_object(Bucket="releases", Key=version["Key"], VersionId=version["VersionId"])
    client.delete_bucket(Bucket="releases")
    client.close()


def put(client: Any, content: bytes, **how: str) -> str:
    """Store a release and return its version."""
    done = client.put_object(Bucket="releases", Key="a b/app.gz", Body=content, **how)
    return str(done["VersionId"])


def source(endpoint: str, where: str = "releases/a b/app.gz", **limits: float) -> S3Source:
    """Return the source of an object there."""
    url = f"s3://{where}{'&' if '?' in where else '?'}endpoint={quote(endpoint)}"
    return S3Source(url, Limits(**limits), {})  # type: ignore[arg-type]


def looked(there: S3Source) -> Candidate:
    """Return the candidate that there is."""
    candidate = there.look({})
    assert candidate is not None
    return candidate


def fails(there: S3Source) -> FetchError:
    """Return why a look fails, in one line that holds no secret."""
    with pytest.raises(FetchError) as caught:
        there.look({})
    message = str(caught.value)
    assert "secret" not in message.lower().replace("secret key", "")
    assert "\n" not in message
    return caught.value


# -- as it should be ------------------------------------------------------------------------------


def test_what_a_look_tells_and_a_download_writes(s3: Any, endpoint: str) -> None:
    """The name is the last part of the key."""
    version, there = put(s3, b"one"), source(endpoint)
    candidate = looked(there)
    assert (candidate.name, candidate.size, candidate.version) == ("app.gz", 3, "")
    assert candidate.published is not None
    assert candidate.known == {"ETag": '"f97c5d29941bfb1b2fdab0874906ab82"', "VersionId": version}
    into = BytesIO()
    there.download(candidate, into)
    assert into.getvalue() == b"one"


def test_what_is_known_is_not_offered_until_it_changes(s3: Any, endpoint: str) -> None:
    """By its ETag, which the endpoint compares."""
    put(s3, b"one")
    there = source(endpoint)
    known = looked(there).known
    assert there.look(known) is None
    put(s3, b"two")
    new = there.look(known)
    assert new is not None
    assert new.known["ETag"] != known["ETag"]


def test_what_was_looked_at_is_what_is_read(s3: Any, endpoint: str) -> None:
    """An object that was replaced meanwhile is an error, and nothing is written."""
    put(s3, b"one")
    there, into = source(endpoint), BytesIO()
    candidate = looked(there)
    put(s3, b"two")
    with pytest.raises(FetchError, match="replaced after it was looked at"):
        there.download(candidate, into)
    assert into.getvalue() == b""


def test_a_version_may_be_asked_for(s3: Any, endpoint: str) -> None:
    """It is then the one, whatever comes after it."""
    version = put(s3, b"one")
    put(s3, b"two")
    there, into = source(endpoint, f"releases/a b/app.gz?version={version}"), BytesIO()
    there.download(looked(there), into)
    assert into.getvalue() == b"one"


def test_what_its_author_has_compressed_stays_so(s3: Any, endpoint: str) -> None:
    """S3 keeps an encoding as a note, and the bytes as they are."""
    put(s3, b"\x1f\x8b not really", ContentEncoding="gzip")
    there, into = source(endpoint), BytesIO()
    there.download(looked(there), into)
    assert into.getvalue() == b"\x1f\x8b not really"


# -- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        ("releases/none", "404 NoSuchKey: there is no such key"),
        ("none/app", "404 NoSuchBucket: there is no such bucket"),
    ],
)
def test_what_is_not_there(s3: Any, endpoint: str, where: str, reason: str) -> None:
    """The error says whether it is the bucket or the key."""
    put(s3, b"one")
    assert reason in str(fails(source(endpoint, where)))


@pytest.mark.parametrize(
    ("status", "code", "reason"),
    [
        (403, "AccessDenied", "s3:GetObject is needed"),
        (400, "ExpiredToken", "the credentials have expired"),
        (403, "InvalidAccessKeyId", "the access key is unknown"),
        (403, "SignatureDoesNotMatch", "the secret key is wrong"),
        (403, "RequestTimeTooSkewed", "clock"),
        (503, "SlowDown", "the server has a problem"),
    ],
)
def test_refusals(server: Server, status: int, code: str, reason: str) -> None:
    """S3 says by a code why, and we what can be done."""
    text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>m</Message></Error>"
    server.at("/b/k", body(text.encode(), status, Retry_After="9", Content_Type="application/xml"))
    error = fails(source(server.url, "b/k"))
    assert f"s3://b/k?…: {status} {code}: " in str(error)
    assert reason in str(error)
    assert error.retry_after == 9
    assert len(server.seen) == 1  # the next try is the next look


def test_credentials_that_have_expired_are_looked_for_again(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Someone may have renewed them."""
    text = b"<Error><Code>ExpiredToken</Code><Message>m</Message></Error>"
    right = body(b"1", ETag='"1"', Last_Modified=DATE)
    server.at("/b/k", body(text, 400, Content_Type="application/xml"), right)
    there = source(server.url, "b/k")
    fails(there)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDRENEWED")
    assert looked(there).published == 1767323045.0
    used = [seen.headers["Authorization"].partition("/")[0] for seen in server.seen]
    assert [credential.rpartition("=")[2] for credential in used] == ["AKIDEXAMPLE", "AKIDRENEWED"]


def test_no_credentials(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is asked, and the error says where they are looked for."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert "see AWS_PROFILE" in str(fails(source(server.url, "b/k")))
    assert server.seen == []


def test_no_profile(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the one that is not there."""
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    assert "nobody" in str(fails(source(server.url, "b/k")))


def test_without_boto3_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no dependency of ours."""
    monkeypatch.delitem(sys.modules, "overseer_py.release.s3")
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(ConfigError, match=r"pip install 'overseer-py\[s3\]'"):
        open_source("s3://b/k", Limits(), {})


# -- faults ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [trickled_headers(0.05), trickle(0.05, Content_Length="99999")])
def test_what_trickles_ends_at_the_deadline(server: Server, answer: Answer) -> None:
    """boto3's own time-outs would wait for each byte anew."""
    server.at("/b/k", answer)
    with pytest.raises(FetchError, match=r"not done after 0\.3s"):
        source(server.url, "b/k", download=0.3).download(Candidate("k", ""), BytesIO())


def test_a_refusal_that_trickles_ends_at_the_deadline(server: Server) -> None:
    """boto3 reads all of it, for its code."""
    server.at("/b/k", trickle(0.05, status=403))
    with pytest.raises(FetchError):
        source(server.url, "b/k", look=0.3).look({})


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (truncated(b"half", promised=8), "cut short"),
        (trickle(Content_Length="1001"), "more than 1000 bytes"),
        (body(bytes(1001)), "more than 1000 bytes"),
    ],
)
def test_bodies_that_are_not_whole_or_too_much(server: Server, answer: Answer, reason: str) -> None:
    """As with any other server."""
    server.at("/b/k", answer)
    with pytest.raises(FetchError, match=reason):
        source(server.url, "b/k", size=1000, download=PATIENCE).download(
            Candidate("k", ""), BytesIO()
        )


def test_of_an_endless_refusal_the_beginning_is_enough(server: Server) -> None:
    """boto3 would read it to its end."""
    server.at("/b/k", endless(status=503, Retry_After="9"))
    assert fails(source(server.url, "b/k", look=PATIENCE)).retry_after == 9


def test_a_signature_does_not_follow_a_redirect(server: Server, foreign: Server) -> None:
    """Whoever answers with one gets nothing signed for another."""
    server.at("/b/k", redirect(f"{foreign.url}/b/k", 307))
    fails(source(server.url, "b/k"))
    assert foreign.seen == []


def test_nobody_listens() -> None:
    """The reason is the system's."""
    with nobody() as url:
        assert "Connection refused" in str(fails(source(url, "b/k")))
