"""``s3://BUCKET/KEY[?endpoint=…&region=…&version=…]``: an object in a bucket.

boto3 speaks S3: credentials, endpoints, signatures, regions.  Its requests are carried by our own
wire, by its ``before-send`` event, so they end at the same deadlines as all others (its own
time-outs are for each wait alone).  It is imported by this file only: it is an extra, and large.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from typing import Any, BinaryIO

from urllib3 import BaseHTTPResponse, HTTPHeaderDict, HTTPResponse
from urllib3.exceptions import HTTPError
from urllib3.util import parse_url

from overseer_py.errors import ConfigError, FetchError
from overseer_py.release import places, refusals
from overseer_py.release.allowance import CHUNK, Allowance
from overseer_py.release.candidate import Candidate, Limits
from overseer_py.release.wire import Wire

try:
    import boto3  # type: ignore[import-untyped]
    from botocore.awsrequest import AWSResponse  # type: ignore[import-untyped]
    from botocore.config import Config  # type: ignore[import-untyped]
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError  # type: ignore[import-untyped]
except ImportError as error:
    raise ConfigError("s3:// needs boto3; pip install 'overseer-py[s3]'") from error

_REFUSAL = 1 << 16  # bytes of a document that says why not
_NOT_MODIFIED = 304
_RENEW = ("ExpiredToken", "InvalidToken", "InvalidAccessKeyId")
_CREDENTIALS = "see AWS_PROFILE, AWS_ACCESS_KEY_ID or the role of this machine"
_REMEDIES = {
    "NoSuchBucket": "there is no such bucket; check the name, the region and the endpoint",
    "NoSuchKey": "there is no such key in the bucket; check it",
    "NoSuchVersion": "there is no such version of the key; check ?version=",
    "AccessDenied": f"access is denied; s3:GetObject is needed; {_CREDENTIALS}",
    "ExpiredToken": f"the credentials have expired; {_CREDENTIALS}",
    "InvalidToken": f"the session token is wrong; {_CREDENTIALS}",
    "InvalidAccessKeyId": f"the access key is unknown; {_CREDENTIALS}",
    "SignatureDoesNotMatch": f"the secret key is wrong; {_CREDENTIALS}",
    "PreconditionFailed": "the object was replaced after it was looked at; it is tried again",
    "RequestTimeTooSkewed": "the clock of this machine is wrong",
}


class S3Source:
    """One object."""

    interval = 300.0

    def __init__(self, url: str, limits: Limits, environ: Mapping[str, str]) -> None:
        self._shown = places.shown(url)
        self._object = places.s3(url)
        self._limits = limits
        bundle = environ.get("AWS_CA_BUNDLE", "")  # boto3's name for it
        self._wire = Wire({**environ, "SSL_CERT_FILE": bundle} if bundle else environ)
        self._allowance = self._allow(limits.look)
        self._client: Any = None

    def look(self, known: Mapping[str, str]) -> Candidate | None:
        """Return the object, unless it is the known one."""
        self._allowance = self._allow(self._limits.look)
        condition = {"IfNoneMatch": known["ETag"]} if "ETag" in known else {}
        # Not head_object: what is refused to it comes without a word about the reason.
        with self._got(condition) as found:
            return self._candidate(found) if found else None

    def download(self, candidate: Candidate, into: BinaryIO) -> None:
        """Write the object; raise FetchError if it is no longer the one that was looked at."""
        self._allowance = self._allow(self._limits.download)
        etag = candidate.known.get("ETag")
        with self._got({"IfMatch": etag} if etag else {}) as found:
            self._allowance.admit(found["ContentLength"])
            self._allowance.copy(self._chunks(found["Body"]), into)

    def _candidate(self, found: Mapping[str, Any]) -> Candidate:
        self._allowance.admit(found["ContentLength"])
        modified = found.get("LastModified")
        return Candidate(
            name=self._object.key.rpartition("/")[2],
            place=self._shown,
            published=modified.timestamp() if modified else None,
            size=found["ContentLength"],
            known={name: found[name] for name in ("ETag", "VersionId") if found.get(name)},
        )

    @contextmanager
    def _got(self, condition: Mapping[str, str]) -> Iterator[dict[str, Any]]:
        """Give what get_object returns; empty if the condition does not hold."""
        version = {"VersionId": self._object.version} if self._object.version else {}
        where = {"Bucket": self._object.bucket, "Key": self._object.key}
        try:
            found = self._connected().get_object(**where, **version, **condition)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] != _NOT_MODIFIED:
                raise self._refused(error) from error
            found = {}
        except BotoCoreError as error:
            raise FetchError(f"{self._shown}: {_reason(error)}") from error
        try:
            yield found
        finally:
            if found:
                found["Body"].close()

    def _chunks(self, body: Any) -> Iterator[bytes]:  # noqa: ANN401 - boto3 has no types
        while True:
            try:
                chunk: bytes = body.read(CHUNK)
            except BotoCoreError as error:
                self._allowance.left()  # it is late: that is the reason, and says it better
                raise FetchError(f"{self._shown}: the body was cut short") from error
            if not chunk:
                return
            yield chunk

    def _refused(self, error: ClientError) -> FetchError:
        code = error.response["Error"].get("Code", "")
        if code in _RENEW:
            self._client = None  # they may be other ones by now, in a file that is read once
        meta = error.response["ResponseMetadata"]
        status, headers = meta["HTTPStatusCode"], HTTPHeaderDict(meta["HTTPHeaders"])
        away = refusals.stay_away(status, headers, time.time())
        remedy = _REMEDIES.get(code) or refusals.remedy(status, "")
        return FetchError(f"{self._shown}: {status} {code}: {remedy}", away)

    def _connected(self) -> Any:  # noqa: ANN401 - boto3 has no types
        if self._client is None:
            session = boto3.session.Session()
            self._client = session.client(
                "s3",
                region_name=self._object.region or None,
                endpoint_url=self._object.endpoint or None,
                config=Config(retries={"total_max_attempts": 1}),  # the next look is the next one
            )
            self._client.meta.events.register("before-send.s3", self._carry)
        return self._client

    def _carry(self, request: Any, **_: object) -> AWSResponse:  # noqa: ANN401
        """Send what boto3 has signed, and return what came as it expects it."""
        headers = {name: _text(value) for name, value in request.headers.items()}
        url = parse_url(request.url)
        response = self._wire.send(request.method, url, headers, self._allowance)
        if response.status != 200:  # noqa: PLR2004 - boto3 reads all the rest to its end
            response = _read_up(response)
        return AWSResponse(request.url, response.status, response.headers, response)

    def _allow(self, seconds: float) -> Allowance:
        return Allowance(self._shown, seconds, self._limits.size)


def _read_up(response: BaseHTTPResponse) -> BaseHTTPResponse:
    """Return an answer with no more of its body than a refusal needs."""
    try:
        beginning = response.read(_REFUSAL, decode_content=False)
    except HTTPError:  # the status says enough
        beginning = b""
    finally:
        response.close()
    headers = {name: value for name, value in response.headers.items() if name != "Content-Length"}
    return HTTPResponse(BytesIO(beginning), headers, response.status, preload_content=False)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _reason(error: BotoCoreError) -> str:
    hint = f"; {_CREDENTIALS}" if isinstance(error, NoCredentialsError) else ""
    return f"{error}{hint}"
