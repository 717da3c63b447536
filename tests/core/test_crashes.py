"""Workers that die unasked: respawn, backoff, forgiveness."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from overseer_py.core.policy import Policy
from tests.core.transcript import Story, serving


def test_the_first_respawn_is_immediate() -> None:
    """A worker that had been ready is replaced without a delay."""
    serving().tells(
        """
        5      exited 1/0#1 139
                 worker-exited 1/0#1 how="exited 139" status=139 expected=no
                 spawn 1/0#2
        6      ready 1/0#2
        """
    )


def test_further_respawns_wait_twice_as_long_each() -> None:
    """The delay doubles up to the limit, whether the worker had been ready or not."""
    serving("backoff=1 backoff_limit=3").tells(
        """
        5      exited 1/0#1 1
                 worker-exited 1/0#1 how="exited 1" status=1 expected=no
                 spawn 1/0#2
        5      exited 1/0#2 1
                 worker-exited 1/0#2 how="exited 1" status=1 expected=no
                 worker-backoff 1/0#2 delay=1 crashes=2
        6      time passes
                 spawn 1/0#3
        6      exited 1/0#3 1
                 worker-exited 1/0#3 how="exited 1" status=1 expected=no
                 worker-backoff 1/0#3 delay=2 crashes=3
        8      time passes
                 spawn 1/0#4
        8      ready 1/0#4
        8      exited 1/0#4 1
                 worker-exited 1/0#4 how="exited 1" status=1 expected=no
                 worker-backoff 1/0#4 delay=3 crashes=4
        11     time passes
                 spawn 1/0#5
        """
    )


def test_a_worker_that_was_never_ready_waits_at_once() -> None:
    """Only who has served before is trusted to do so again."""
    Story().tells(
        """
        0      rollout start
                 service-starting 1 reason=start workers=1
                 spawn 1/0#1
        1      exited 1/0#1 1
                 worker-exited 1/0#1 how="exited 1" status=1 expected=no
                 worker-backoff 1/0#1 delay=0.5 crashes=1
        1.4    time passes
        1.5    time passes
                 spawn 1/0#2
        """
    )


def test_jitter_spreads_the_respawns() -> None:
    """Services that crash together come back apart, 20 % either way."""
    for draw, delay in ((0.0, 8), (0.25, 9), (0.75, 11)):
        story = serving("backoff=10", draw)
        story.happens(5, "exited 1/0#1 1")
        story.happens(5, "exited 1/0#2 1")
        assert story.fleet.next_deadline() == 5 + delay


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_delay_stays_within_its_bounds(waits: int, draw: float) -> None:
    """However often it crashed, a worker waits no longer than the limit."""
    policy = Policy(backoff=0.5, backoff_limit=30)
    assert 0.4 <= policy.delay(waits, draw) <= 30


def test_crashes_are_forgiven_after_the_limit() -> None:
    """A worker that was ready for as long as the longest delay starts afresh."""
    story = serving("backoff=1 backoff_limit=30")
    story.happens(4, "exited 1/0#1 1")
    story.happens(4, "exited 1/0#2 1")
    story.tells(
        """
        5      time passes
                 spawn 1/0#3
        6      ready 1/0#3
        36     time passes
        37     exited 1/0#3 1
                 worker-exited 1/0#3 how="exited 1" status=1 expected=no
                 spawn 1/0#4
        37     exited 1/0#4 1
                 worker-exited 1/0#4 how="exited 1" status=1 expected=no
                 worker-backoff 1/0#4 delay=1 crashes=2
        """
    )


def test_crashes_are_not_forgiven_before_the_limit() -> None:
    """A worker that dies again and again is slowed down."""
    story = serving("backoff_limit=30")
    story.happens(5, "exited 1/0#1 1")
    story.happens(6, "ready 1/0#2")
    assert story.fleet.next_deadline() == 36
    story.tells(
        """
        35     exited 1/0#2 1
                 worker-exited 1/0#2 how="exited 1" status=1 expected=no
                 worker-backoff 1/0#2 delay=0.5 crashes=2
        """
    )


def test_a_late_respawn_is_a_crash() -> None:
    """A respawned worker that is not ready in time is killed and waits its turn."""
    serving("ready_timeout=10").tells(
        """
        5      exited 1/0#1 1
                 worker-exited 1/0#1 how="exited 1" status=1 expected=no
                 spawn 1/0#2
        15     time passes
                 worker-late 1/0#2 how="was not ready within 10 s"
                 kill 1/0#2
        16     exited 1/0#2 137
                 worker-exited 1/0#2 how="exited 137" status=137 expected=no
                 worker-backoff 1/0#2 delay=0.5 crashes=2
        16.5   time passes
                 spawn 1/0#3
        """
    )


def test_a_crash_of_the_old_during_a_rollout_is_repaired() -> None:
    """Until the commit the old generation is the service."""
    serving("settle=5").tells(
        """
        5      rollout deploy
                 rollout-started 2 reason=deploy workers=1
                 spawn 2/0#1
        6      ready 2/0#1
        7      exited 1/0#1 1
                 worker-exited 1/0#1 how="exited 1" status=1 expected=no
                 spawn 1/0#2
        11     time passes
                 rollout-committed 2 reason=deploy took=6
                 drain 1/0#2
        """
    )


def test_a_waiting_slot_is_forgotten_with_its_generation() -> None:
    """The new generation takes over from a crash loop; no timer of the old one fires."""
    story = serving("backoff=20")
    story.tells(
        """
        5      exited 1/0#1 1
                 worker-exited 1/0#1 how="exited 1" status=1 expected=no
                 spawn 1/0#2
        6      exited 1/0#2 1
                 worker-exited 1/0#2 how="exited 1" status=1 expected=no
                 worker-backoff 1/0#2 delay=20 crashes=2
        7      rollout fixed
                 rollout-started 2 reason=fixed workers=1
                 spawn 2/0#1
        8      ready 2/0#1
                 rollout-committed 2 reason=fixed took=1
                 generation-gone 1
        """
    )
    assert story.fleet.next_deadline() is None


def test_a_drained_worker_may_die_as_it_likes() -> None:
    """An exit that was asked for is expected, whatever its status."""
    serving().tells(
        """
        5      rollout deploy
                 rollout-started 2 reason=deploy workers=1
                 spawn 2/0#1
        6      ready 2/0#1
                 rollout-committed 2 reason=deploy took=1
                 drain 1/0#1
        7      exited 1/0#1 143
                 worker-exited 1/0#1 how="exited 143" status=143 expected=yes
                 generation-gone 1
        """
    )
