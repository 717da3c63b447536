"""Digests: as they are written, in all the dialects, and when they must not be believed."""

from __future__ import annotations

import hashlib
import io

import pytest

from overseer_py.errors import VetoError
from overseer_py.release.verify import check_sha256, sha256, sha256_given, sha256_listed

ONE, TWO = hashlib.sha256(b"one").hexdigest(), hashlib.sha256(b"two").hexdigest()


def test_a_digest_is_given_in_hexadecimal() -> None:
    """Blanks around it and capitals do not matter."""
    assert sha256_given(f" {ONE.upper()}\n") == ONE


@pytest.mark.parametrize("text", ["", ONE[:-1], ONE + "0", "g" * 64, f"{ONE} {TWO}", "md5:" + ONE])
def test_what_is_no_digest_vetoes(text: str) -> None:
    """A digest that was asked for and cannot be meant is not left out."""
    with pytest.raises(VetoError, match="64 hexadecimal digits"):
        sha256_given(text)


@pytest.mark.parametrize(
    "text",
    [
        f"{TWO}  other\n{ONE}  app\n",
        f"{ONE} *app\r\n{TWO} *other\r\n",  # binary mode, and Windows
        f"SHA256 (app) = {ONE}\nSHA256 (other) = {TWO}\nSHA512 (app) = {TWO}{TWO}\n",
        f"SHA2-256(app)= {ONE.upper()}\n",  # openssl 3
        f"{ONE}  ./app\n",
        f"{ONE}  dist/app\n",
        f"{TWO}  old/app\n{ONE}  app\n",  # the very name counts more
        f"\ufeff{ONE}  app",
        f"# releases\n\n{ONE}\tapp\n",
        f"{ONE}  app\n{ONE}  ./app\n",  # twice the same
        f"{ONE}\n",
        f"{ONE}  -\n",
        f"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n{ONE}  app\n-----BEGIN PGP",
    ],
)
def test_lists_of_digests(text: str) -> None:
    """GNU's and the BSDs', with other files, other algorithms and other lines in them."""
    assert sha256_listed(text, "app") == ONE


def test_an_escaped_name() -> None:
    """sha256sum(1) writes a backslash in front of a line in which the name is escaped."""
    assert sha256_listed(f"\\{ONE}  a\\\\b\\nc\n", "a\\b\nc") == ONE


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no SHA-256"),
        (f"{ONE}  other\n", "no SHA-256"),
        (f"{ONE}  app.sig\n{ONE}  myapp\n", "no SHA-256"),
        (f"{ONE[:-1]}  app\n", "no SHA-256"),
        (f"{ONE}\n{TWO}\n", "no SHA-256"),
        (f"{ONE}  -\n{TWO}  other\n", "no SHA-256"),
        (f"{ONE}  app\n{TWO}  app\n", "several"),
        (f"{ONE}  linux/app\n{TWO}  darwin/app\n", "several"),
        (f"SHA512 (app) = {ONE}{TWO}\n", "no SHA-256"),
        ("<html>Not found</html>", "no SHA-256"),
    ],
)
def test_a_list_that_does_not_say_vetoes(text: str, why: str) -> None:
    """Neither the absent nor the ambiguous is guessed."""
    with pytest.raises(VetoError, match=why):
        sha256_listed(text, "app")


def test_bytes_are_compared_with_the_digest() -> None:
    """A single bit too many is a veto that names both digests."""
    check_sha256(sha256(io.BytesIO(b"one")), ONE.upper())
    with pytest.raises(VetoError, match=f"{TWO}, but {ONE}"):
        check_sha256(sha256(io.BytesIO(b"two")), ONE)
