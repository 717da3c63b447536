"""What workers write is passed on, and its end is kept, whatever they write."""

from __future__ import annotations

import os
import resource
import subprocess
import tracemalloc
from collections.abc import Iterator
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overseer_py.errors import LaunchError
from overseer_py.relay import LONGEST_LINE, Relay, Splitter, Tail
from overseer_py.system.loop import Loop
from tests.system.apart import apart

PIECES = st.lists(st.binary(max_size=50).map(lambda data: data.replace(b"a", b"\n")), max_size=20)


@pytest.fixture(name="loop")
def fixture_loop() -> Iterator[Loop]:
    """Return a loop."""
    with closing(Loop()) as loop:
        yield loop


# -- the last lines -----------------------------------------------------------------------------


def test_the_last_hundred_lines_are_kept() -> None:
    """Of many lines the last hundred are kept, the oldest first, in pieces of any size."""
    text = "".join(f"line {number}\n" for number in range(1000)).encode()
    for size in (1, 7, 100, 4096, len(text)):
        tail = Tail()
        for start in range(0, len(text), size):
            tail.feed(text[start : start + size])
        assert tail.lines() == [f"line {number}" for number in range(900, 1000)]


def test_an_unfinished_line_is_a_line() -> None:
    """A worker that dies in the middle of a line has said that much."""
    tail = Tail()
    assert tail.lines() == []
    tail.feed(b"one\ntw")
    tail.feed(b"")
    assert tail.lines() == ["one", "tw"]
    tail.feed(b"o\r\n\nthree")
    assert tail.lines() == ["one", "two", "", "three"]
    tail.feed(b"\n" + b"x\n" * 100 + b"end")
    assert tail.lines() == ["x"] * 99 + ["end"]


def test_what_is_no_text_is_kept_readable() -> None:
    """Bytes that are not UTF-8 are replaced, not refused."""
    tail = Tail()
    tail.feed(b"\xff\xfe\0 caf\xc3")
    tail.feed(b"\xa9\n")
    assert tail.lines() == ["��\0 café"]


@pytest.mark.parametrize("kind", ["tail", "splitter"])
def test_a_line_without_an_end_takes_no_memory(kind: str) -> None:
    """100 MB without a newline cost no more than the longest line that is kept."""
    longest = 0

    def on_line(line: str) -> None:
        nonlocal longest
        longest = max(longest, len(line))

    piece = b"x" * 65536
    feed = Tail().feed if kind == "tail" else Splitter(on_line).feed
    feed(piece)
    tracemalloc.start()
    for _ in range(1600):
        feed(piece)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20
    assert longest <= LONGEST_LINE


def test_a_long_line_is_cut_in_the_tail() -> None:
    """The beginning of a long line is kept, and the lines after it are whole."""
    tail = Tail()
    for _ in range(3):
        tail.feed(b"y" * 65536)
    tail.feed(b"\nafter\n")
    assert tail.lines() == ["y" * LONGEST_LINE, "after"]


@settings(deadline=None, max_examples=200)
@given(PIECES)
def test_any_bytes_have_last_lines(pieces: list[bytes]) -> None:
    """However the bytes come, the lines are those of the whole."""
    tail = Tail()
    for piece in pieces:
        tail.feed(piece)
    lines = b"".join(pieces).split(b"\n")
    lines = lines if lines[-1] else lines[:-1]
    expected = [line.decode(errors="replace").rstrip("\r") for line in lines]
    assert tail.lines() == expected[-100:]


# -- captured lines -----------------------------------------------------------------------------


def split(*pieces: bytes) -> list[str]:
    """Return the lines that a splitter tells of."""
    lines: list[str] = []
    splitter = Splitter(lines.append)
    for piece in pieces:
        splitter.feed(piece)
    return lines


def test_lines_are_told_when_they_are_complete() -> None:
    """Half a line waits for its other half, or for the end of the stream."""
    assert split(b"one\ntw") == ["one"]
    assert split(b"one\ntw", b"o\n") == ["one", "two"]
    assert split(b"one\ntw", b"") == ["one", "tw"]
    assert split(b"") == []
    assert split(b"one\r\n\nthree", b"") == ["one", "", "three"]


def test_a_long_line_is_split() -> None:
    """Nothing of a long captured line is lost."""
    lines = split(*[b"z" * 10_000] * 3, b"\nafter\n", b"")
    assert "".join(lines[:-1]) == "z" * 30_000
    assert lines[-1] == "after"


@settings(deadline=None, max_examples=200)
@given(PIECES)
def test_any_bytes_are_split(pieces: list[bytes]) -> None:
    """However the bytes come, the lines told are those of the whole."""
    lines = b"".join(pieces).split(b"\n")
    lines = lines if lines[-1] else lines[:-1]
    pieces = [piece for piece in pieces if piece]
    expected = [line.decode(errors="replace").rstrip("\r") for line in lines]
    assert split(*pieces, b"") == expected


# -- the pipe -------------------------------------------------------------------------------------


def test_a_pipe_is_read_until_its_last_writer_is_gone(loop: Loop) -> None:
    """Every sink gets every piece, and an empty one when nobody can write any more."""
    one: list[bytes] = []
    two: list[bytes] = []
    relay = Relay(loop, [one.append, two.append])
    writer = os.dup(relay.write_end)
    assert os.get_blocking(writer)
    relay.handed_over()
    os.write(writer, b"first\n")
    turn(loop)
    os.write(writer, b"second")
    os.close(writer)
    turn(loop)
    turn(loop)
    assert one == two == [b"first\n", b"second", b""]
    assert loop.turn(0) == []
    relay.close()


def turn(loop: Loop) -> None:
    """Do what is due now."""
    for call in loop.turn(0):
        call()


def test_the_last_words_are_read_at_once(loop: Loop) -> None:
    """After a worker's end all that it has written is there, up to a full pipe."""
    pieces: list[bytes] = []
    relay = Relay(loop, [pieces.append])
    text = b"w" * 200_000
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=relay.write_end) as worker:
        worker.communicate(text)
    relay.catch_up()
    assert b"".join(pieces) == text
    relay.catch_up()
    relay.handed_over()
    relay.catch_up()
    relay.catch_up()
    assert pieces[-1] == b""


def test_a_flood_does_not_keep_the_loop(loop: Loop) -> None:
    """One turn takes a bounded piece, even if a worker writes without end."""
    pieces: list[bytes] = []
    relay = Relay(loop, [pieces.append])
    with subprocess.Popen(["yes"], stdout=relay.write_end, stderr=subprocess.DEVNULL) as flood:
        relay.handed_over()
        while len(pieces) < 20:
            calls = loop.turn(60)
            assert len(calls) == 1
            calls[0]()
        relay.catch_up()
        relay.close()  # whoever still writes gets SIGPIPE
        assert flood.wait() == -13
    assert max(map(len, pieces)) <= 65536


def test_closing_twice_is_no_error(loop: Loop) -> None:
    """A relay that nobody took is closed whole, and once."""
    before = os.listdir("/proc/self/fd")
    relay = Relay(loop, [])
    for _ in range(2):
        relay.handed_over()
        relay.close()
        relay.catch_up()
    assert os.listdir("/proc/self/fd") == before


def test_without_descriptors_there_is_no_relay(loop: Loop) -> None:
    """A pipe that cannot be had is a failed start with the system's reason."""

    def run() -> str:
        resource.setrlimit(resource.RLIMIT_NOFILE, (4, 4))
        with pytest.raises(LaunchError) as caught:
            Relay(loop, [])
        return str(caught.value)

    assert apart(run) == "could not be started: Too many open files"
