"""Whether bytes are those that were meant: SHA-256, and minisign signatures.  Pure.

Nothing here opens anything: what is to be believed comes in as bytes, text or an open file.  What
was asked for and is absent, malformed or ambiguous is a VetoError: it fails closed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from overseer_py.errors import ConfigError, VetoError

_HEX = re.compile(r"[0-9a-fA-F]{64}")
# sha256sum(1): a backslash in front says that the name is escaped; "*" marks binary mode.
_GNU = re.compile(r"(?P<escaped>\\?)(?P<digest>[0-9a-fA-F]{64})\s+\*?(?P<name>.+)")
# md5(1) of the BSDs, sha256sum --tag, and openssl dgst, which has its own idea of blanks.
_BSD = re.compile(
    r"(?P<escaped>\\?)SHA(?:2-)?256 ?\((?P<name>.+)\) ?= ?(?P<digest>[0-9a-fA-F]{64})"
)
_ESCAPES = {"\\\\": "\\", "\\n": "\n", "\\r": "\r"}
_STANDARD_INPUT = "-"  # what sha256sum calls a file that it was not told the name of

_CHUNK = 1 << 18  # bytes
LEGACY_MOST = 1 << 28  # bytes of a file whose signature needs the whole of it in memory
_UNTRUSTED = "untrusted comment:"
_TRUSTED = "trusted comment: "


def sha256_given(text: str) -> str:
    """Return a digest that was written as 64 hexadecimal digits, in lower case."""
    digest = text.strip()
    if not _HEX.fullmatch(digest):
        raise VetoError(f"{digest[:80]!r} is not a SHA-256: 64 hexadecimal digits")
    return digest.lower()


def sha256_listed(text: str, name: str) -> str:
    """Return the digest of the file ``name`` in a text such as SHA256SUMS.

    Lines are as sha256sum(1) of GNU coreutils writes them or as the BSDs do; others are ignored.
    A line for the very name counts more than lines for that name in some directory.  A text that
    is one nameless digest is about any file.  Raises VetoError if none or several could be meant.
    """
    lines = [line.strip() for line in text.removeprefix("\ufeff").splitlines() if line.strip()]
    listed = [found for line in lines if (found := _listed(line))]
    exact = {digest for found, digest in listed if found == name}
    elsewhere = {digest for found, digest in listed if found.rpartition("/")[2] == name}
    meant = exact or elsewhere
    if not meant and len(lines) == 1:
        if _HEX.fullmatch(lines[0]):
            meant = {lines[0].lower()}
        elif listed and listed[0][0] == _STANDARD_INPUT:
            meant = {listed[0][1]}
    if len(meant) != 1:
        what = "several different SHA-256" if meant else "no SHA-256"
        raise VetoError(f"the list of digests has {what} for {name}")
    return meant.pop()


def _listed(line: str) -> tuple[str, str] | None:
    match = _GNU.fullmatch(line) or _BSD.fullmatch(line)
    if match is None:
        return None
    name = match["name"]
    if match["escaped"]:
        name = re.sub(r"\\[\\nr]", lambda found: _ESCAPES[found[0]], name)
    return name.removeprefix("./"), match["digest"].lower()


def sha256(file: BinaryIO) -> str:
    """Return the digest of an open file, from where it is read next."""
    return _hashed(file, hashlib.sha256()).hex()


def check_sha256(actual: str, wanted: str) -> None:
    """Raise VetoError unless both digests (see ``sha256``, ``sha256_given``) are the same."""
    if not hmac.compare_digest(actual.lower(), wanted.lower()):
        raise VetoError(f"its SHA-256 is {actual}, but {wanted} was asked for")


class _Digest(Protocol):
    def update(self, data: bytes, /) -> None: ...
    def digest(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class PublicKey:
    """The key of whoever makes releases."""

    key_id: bytes
    key: bytes

    def __str__(self) -> str:
        """Return its id as minisign(1) shows it."""
        return _shown(self.key_id)


@dataclass(frozen=True, slots=True)
class Signature:
    """A signature file: <https://jedisct1.github.io/minisign/#signature-format>."""

    prehashed: bool  # of the BLAKE2b-512 digest of the file rather than of the file
    key_id: bytes
    signature: bytes
    trusted_comment: str
    comment_signature: bytes  # of signature + trusted comment: what ties the one to the other


def public_key(text: str) -> PublicKey:
    """Return a minisign public key: the line that begins with RW, or its file of two lines.

    Raises ConfigError: the key is ours, not the release's.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith(_UNTRUSTED)]
    raw = _decoded(lines[0]) if len(lines) == 1 else b""
    if len(raw) != 2 + 8 + 32 or not raw.startswith(b"Ed"):
        raise ConfigError(
            f"minisign: {text.strip()[:80]!r} is no public key of minisign; "
            "give the line of minisign.pub that begins with RW"
        )
    return PublicKey(raw[2:10], raw[10:])


def signature(text: bytes) -> Signature:
    """Return what a ``.minisig`` file says; raise VetoError if it is not one."""
    try:
        lines = text.decode().rstrip("\r\n").split("\n")
    except UnicodeDecodeError:
        raise VetoError("malformed signature: it is not a text") from None
    match [line.removesuffix("\r") for line in lines]:
        case [first, second, third, fourth] if first.startswith(_UNTRUSTED) and third.startswith(
            _TRUSTED
        ):
            raw, comment_signature = _decoded(second), _decoded(fourth)
        case _:
            raise VetoError(
                "malformed signature: not the four lines that minisign writes, "
                "of which the third is the trusted comment"
            )
    if len(raw) != 2 + 8 + 64 or len(comment_signature) != 64:  # noqa: PLR2004 - Ed25519's
        raise VetoError("malformed signature: it is cut short or is not base64")
    if raw[:2] not in (b"Ed", b"ED"):
        raise VetoError(f"malformed signature: its algorithm {raw[:2]!r} is not known")
    comment = third.removeprefix(_TRUSTED)
    return Signature(raw[:2] == b"ED", raw[2:10], raw[10:], comment, comment_signature)


def check_signature(
    file: BinaryIO, made: Signature, key: PublicKey, legacy_most: int = LEGACY_MOST
) -> None:
    """Raise VetoError unless the key made this signature of the file, and its trusted comment.

    The file is read from where it is, in pieces; but whole if the signature is of the legacy form,
    and then it may have ``legacy_most`` bytes.
    """
    if made.key_id != key.key_id:
        raise VetoError(f"wrong key: signed with {_shown(made.key_id)}, but {key} is trusted")
    if not _made_by(key, made.signature, _signed(file, made, legacy_most)):
        raise VetoError(f"bad signature: these are not the bytes that {key} has signed")
    comment = made.trusted_comment.encode()
    if not _made_by(key, made.comment_signature, made.signature + comment):
        raise VetoError("altered trusted comment: it is not the one that was signed")


def require_cryptography() -> None:
    """Raise ConfigError if signatures cannot be verified here; call it before there is one."""
    try:
        import cryptography  # noqa: F401, PLC0415 - an extra
    except ImportError:
        raise ConfigError(
            "minisign: the package cryptography is not installed; pip install 'overseer-py[verify]'"
        ) from None


def _signed(file: BinaryIO, made: Signature, legacy_most: int) -> bytes:
    if made.prehashed:
        return _hashed(file, hashlib.blake2b())
    whole = file.read(legacy_most + 1)
    if len(whole) > legacy_most:
        raise VetoError(
            f"its signature is of the legacy form, for which it has too many bytes (more than "
            f"{legacy_most}); sign it with minisign -H"
        )
    return whole


def _hashed(file: BinaryIO, digest: _Digest) -> bytes:
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
    return digest.digest()


def _made_by(key: PublicKey, made: bytes, signed: bytes) -> bool:
    require_cryptography()
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - an extra
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (  # noqa: PLC0415
        Ed25519PublicKey,
    )

    try:
        Ed25519PublicKey.from_public_bytes(key.key).verify(made, signed)
    except InvalidSignature:
        return False
    return True


def _decoded(line: str) -> bytes:
    try:
        return base64.b64decode(line, validate=True)
    except (binascii.Error, ValueError):
        return b""


def _shown(key_id: bytes) -> str:
    return f"{int.from_bytes(key_id, 'little'):X}"  # as minisign does, without leading zeros
