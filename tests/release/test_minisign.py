"""minisign's signatures: those that the program makes, and those of an attacker."""

from __future__ import annotations

import base64
import hashlib
import io
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from overseer_py.errors import ConfigError, VetoError
from overseer_py.release.verify import PublicKey, check_signature, public_key, signature
from tests.needs import need

CONTENT = b"a program" * 1000


@dataclass(frozen=True)
class Maker:
    """Somebody with a key."""

    key_id: bytes = b"\x01\x02\x03\x04\x05\x06\x07\x08"
    key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)

    def public(self) -> str:
        """Return the key as minisign shows it."""
        return base64.b64encode(
            b"Ed" + self.key_id + self.key.public_key().public_bytes_raw()
        ).decode()

    def sign(
        self, content: bytes, comment: str = "version:1.0", *, legacy: bool = False
    ) -> list[str]:
        """Return the lines of a signature."""
        signed = content if legacy else hashlib.blake2b(content).digest()
        made = self.key.sign(signed)
        line = base64.b64encode((b"Ed" if legacy else b"ED") + self.key_id + made)
        over = base64.b64encode(self.key.sign(made + comment.encode()))
        untrusted = "untrusted comment: signature from a test"
        return [untrusted, line.decode(), f"trusted comment: {comment}", over.decode()]


MAKER = Maker()
KEY = public_key(MAKER.public())


def check(lines: list[str], content: bytes = CONTENT, key: PublicKey = KEY) -> str:
    """Return the trusted comment of a signature that is right."""
    made = signature("\n".join(lines).encode() + b"\n")
    check_signature(io.BytesIO(content), made, key)
    return made.trusted_comment


@pytest.mark.parametrize("legacy", [False, True])
def test_a_good_signature(legacy: bool) -> None:
    """Of both forms, and its comment is what was signed."""
    assert check(MAKER.sign(CONTENT, "file:ä version:1", legacy=legacy)) == "file:ä version:1"


@pytest.mark.parametrize("legacy", [False, True])
def test_other_bytes(legacy: bool) -> None:
    """One bit is enough."""
    with pytest.raises(VetoError, match="bad signature"):
        check(MAKER.sign(CONTENT, legacy=legacy), bytes([CONTENT[0] ^ 1]) + CONTENT[1:])


def test_another_key() -> None:
    """A good signature of somebody else names both keys, in minisign's way."""
    with pytest.raises(VetoError, match="wrong key: signed with 908070605040302, but 80706050403"):
        check(Maker(b"\x02\x03\x04\x05\x06\x07\x08\x09").sign(CONTENT))


def test_another_key_of_the_same_id() -> None:
    """The id is no proof."""
    with pytest.raises(VetoError, match="bad signature"):
        check(Maker().sign(CONTENT))


def test_an_altered_trusted_comment() -> None:
    """Otherwise an old release could be called a new one."""
    lines = MAKER.sign(CONTENT, "version:1.0")
    lines[2] = lines[2].replace("1.0", "9.0")
    with pytest.raises(VetoError, match="altered trusted comment"):
        check(lines)


def test_a_comment_of_another_release() -> None:
    """A trusted comment, well signed, belongs to one signature."""
    lines, others = MAKER.sign(CONTENT, "version:1.0"), MAKER.sign(b"other", "version:9.0")
    with pytest.raises(VetoError, match="altered trusted comment"):
        check([*lines[:2], *others[2:]])


def test_the_algorithm_cannot_be_changed() -> None:
    """A prehashed signature is none of the digest as a file, and the other way round."""
    lines = MAKER.sign(CONTENT)
    lines[1] = "RW" + lines[1][2:]  # base64 of Ed
    with pytest.raises(VetoError, match="bad signature"):
        check(lines, hashlib.blake2b(CONTENT).digest() + b" ")
    with pytest.raises(VetoError, match="bad signature"):
        check(MAKER.sign(hashlib.blake2b(CONTENT).digest(), legacy=True))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda lines: lines[:0],
        lambda lines: lines[:2],
        lambda lines: lines[1:],
        lambda lines: [*lines, "more"],
        lambda lines: [lines[0], lines[1][:-8], *lines[2:]],
        lambda lines: [lines[0], "!" + lines[1][1:], *lines[2:]],
        lambda lines: [lines[0], "QU" + lines[1][2:], *lines[2:]],
        lambda lines: [*lines[:2], lines[2].replace("trusted", "trust"), lines[3]],
        lambda lines: [*lines[:3], ""],
        lambda lines: ["<html>", *lines[1:2], "Not found", "</html>"],
    ],
)
def test_malformed_signatures(spoil: object) -> None:
    """They say so, whatever is wrong with them."""
    assert callable(spoil)
    with pytest.raises(VetoError, match="malformed signature"):
        check(spoil(MAKER.sign(CONTENT)))


@settings(max_examples=200)
@given(st.binary(max_size=400))
def test_any_bytes_are_answered(text: bytes) -> None:
    """A signature file is what somebody else has written."""
    with pytest.raises(VetoError):
        signature(text)


def test_windows_lines() -> None:
    """A carriage return is no part of the comment."""
    text = "\r\n".join(MAKER.sign(CONTENT, "version:1")).encode()
    assert signature(text).trusted_comment == "version:1"


@pytest.mark.parametrize("text", ["", "RWQ", "untrusted comment: x", "x" * 56, "secret\nkey"])
def test_what_is_no_public_key(text: str) -> None:
    """The remedy says what to look for."""
    with pytest.raises(ConfigError, match="begins with RW"):
        public_key(text)


def test_the_public_keys_file() -> None:
    """The line alone, or as it lies in minisign.pub."""
    assert public_key(f"untrusted comment: minisign public key\n{MAKER.public()}\n") == KEY
    assert str(KEY) == "807060504030201"


def test_a_legacy_signature_of_a_large_file() -> None:
    """What has to be in memory as a whole is bounded."""
    made = signature("\n".join(MAKER.sign(CONTENT, legacy=True)).encode())
    with pytest.raises(VetoError, match="minisign -H"):
        check_signature(io.BytesIO(CONTENT), made, KEY, legacy_most=len(CONTENT) - 1)
    check_signature(io.BytesIO(CONTENT), made, KEY, legacy_most=len(CONTENT))


def test_without_cryptography() -> None:
    """The module is loaded without it, and what needs it names the remedy."""
    code = """
import sys
sys.modules["cryptography"] = None
from overseer_py.release import verify
try:
    verify.require_cryptography()
except verify.ConfigError as error:
    sys.exit(str(error))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip().endswith("pip install 'overseer-py[verify]'")


@pytest.mark.parametrize("form", ["-H", "-l"])
def test_the_real_minisign(tmp_path: Path, form: str) -> None:
    """What minisign(1) signs is believed, and what is altered since is not."""
    minisign = need("minisign")
    (tmp_path / "app").write_bytes(CONTENT)

    def run(*words: str) -> None:
        subprocess.run([minisign, *words], cwd=tmp_path, check=True, capture_output=True, input=b"")

    run("-G", "-W", "-p", "pub", "-s", "sec")
    run("-S", form, "-s", "sec", "-m", "app", "-t", "version:3.1 file:app")
    key = public_key((tmp_path / "pub").read_text())
    text = (tmp_path / "app.minisig").read_text()
    assert str(key) in (tmp_path / "pub").read_text()  # its id, as minisign says it
    assert check(text.splitlines(), key=key) == "version:3.1 file:app"
    assert signature(text.encode()).prehashed == (form == "-H")
    with pytest.raises(VetoError, match="bad signature"):
        check(text.splitlines(), CONTENT + b"!", key)
