"""The way out, from every state: asked for once, asked for twice, and in a hurry."""

from __future__ import annotations

from tests.core.transcript import Story, serving


def test_stop_drains_all_and_quits() -> None:
    """Status 0: it ended as it was asked to, whatever the workers' own status."""
    serving("workers=2").tells(
        """
        5      stop
                 stopping drain=yes delay=0
                 drain 1/0#1
                 drain 1/1#1
        6      exited 1/0#1 143
                 worker-exited 1/0#1 how="exited 143" status=143 expected=yes
        7      exited 1/1#1 0
                 worker-exited 1/1#1 how="exited 0" status=0 expected=yes
                 generation-gone 1
                 quit 0
        """
    )


def test_stop_before_anything_was_started() -> None:
    """There is nothing to wait for."""
    Story().tells(
        """
        0      stop
                 stopping drain=yes delay=0
                 quit 0
        1      rollout start
                 rollout-refused reason="the service is stopping"
        """
    )


def test_stop_while_starting() -> None:
    """A worker that is not ready yet is drained like any other, and not respawned."""
    Story().tells(
        """
        0      rollout start
                 service-starting 1 reason=start workers=1
                 spawn 1/0#1
        1      stop
                 stopping drain=yes delay=0
                 drain 1/0#1
        2      ready 1/0#1
        3      exited 1/0#1 1
                 worker-exited 1/0#1 how="exited 1" status=1 expected=yes
                 generation-gone 1
                 quit 0
        """
    )


def test_stop_cancels_a_starting_candidate() -> None:
    """Its exit is then no failure, and what was pending is forgotten."""
    story = serving()
    story.tells(
        """
        5      rollout deploy
                 rollout-started 2 reason=deploy workers=1
                 spawn 2/0#1
        5.5    rollout signal
                 rollout-queued reason=signal
        6      stop
                 stopping drain=yes delay=0
                 rollout-cancelled 2 reason="the service is stopping"
                 drain 2/0#1
                 drain 1/0#1
        7      exited 2/0#1 1
                 worker-exited 2/0#1 how="exited 1" status=1 expected=yes
                 generation-gone 2
        8      exited 1/0#1 0
                 worker-exited 1/0#1 how="exited 0" status=0 expected=yes
                 generation-gone 1
                 quit 0
        """
    )
    assert not story.fleet.rolling


def test_stop_cancels_a_settling_candidate() -> None:
    """The settle time does not commit anything any more."""
    serving("settle=5").tells(
        """
        5      rollout deploy
                 rollout-started 2 reason=deploy workers=1
                 spawn 2/0#1
        6      ready 2/0#1
        7      stop
                 stopping drain=yes delay=0
                 rollout-cancelled 2 reason="the service is stopping"
                 drain 1/0#1
                 drain 2/0#1
        11     time passes
        12     exited 2/0#1 0
                 worker-exited 2/0#1 how="exited 0" status=0 expected=yes
                 generation-gone 2
        12     exited 1/0#1 0
                 worker-exited 1/0#1 how="exited 0" status=0 expected=yes
                 generation-gone 1
                 quit 0
        """
    )


def test_stop_while_an_older_generation_drains() -> None:
    """It keeps its own time-out; nobody is asked twice."""
    serving("drain_timeout=30").tells(
        """
        5      rollout deploy
                 rollout-started 2 reason=deploy workers=1
                 spawn 2/0#1
        6      ready 2/0#1
                 rollout-committed 2 reason=deploy took=1
                 drain 1/0#1
        20     stop
                 stopping drain=yes delay=0
                 drain 2/0#1
        36     time passes
                 drain-timed-out 1/0#1
                 kill 1/0#1
        37     exited 1/0#1 137
                 worker-exited 1/0#1 how="exited 137" status=137 expected=yes
                 generation-gone 1
        38     exited 2/0#1 0
                 worker-exited 2/0#1 how="exited 0" status=0 expected=yes
                 generation-gone 2
                 quit 0
        """
    )


def test_stop_between_two_exclusive_generations() -> None:
    """The old drains, the new has no process yet, and none is started any more."""
    serving("surge=exclusive").tells(
        """
        5      rollout deploy
                 rollout-started 2 reason=deploy workers=1
                 drain 1/0#1
        6      stop
                 stopping drain=yes delay=0
                 rollout-cancelled 2 reason="the service is stopping"
                 generation-gone 2
        7      exited 1/0#1 0
                 worker-exited 1/0#1 how="exited 0" status=0 expected=yes
                 generation-gone 1
                 quit 0
        """
    )


def test_stop_while_a_slot_waits() -> None:
    """A slot in backoff has no process: there is nothing to drain."""
    serving().tells(
        """
        5      exited 1/0#1 1
                 worker-exited 1/0#1 how="exited 1" status=1 expected=no
                 spawn 1/0#2
        6      exited 1/0#2 1
                 worker-exited 1/0#2 how="exited 1" status=1 expected=no
                 worker-backoff 1/0#2 delay=0.5 crashes=2
        6.2    stop
                 stopping drain=yes delay=0
                 generation-gone 1
                 quit 0
        """
    )


def test_stop_starts_nothing_that_was_just_due() -> None:
    """A stop and the end of a backoff in the same moment: the stop wins."""
    for stop in ("stop", "stop now"):
        story = serving("workers=2")
        story.happens(5, "exited 1/0#1 1")
        story.happens(6, "exited 1/0#2 1")
        answer = story.happens(6.5, stop)
        assert not [line for line in answer if line.startswith("spawn")]


def test_a_crash_when_the_delay_is_over_starts_nothing() -> None:
    """The drain is due, even if the first to say so is the crash."""
    serving("stop_delay=10").tells(
        """
        5      stop
                 stopping drain=yes delay=10
        15     exited 1/0#1 1
                 worker-exited 1/0#1 how="exited 1" status=1 expected=yes
                 generation-gone 1
                 quit 0
        """
    )


def test_stop_delay_keeps_serving_before_the_drain() -> None:
    """Load balancers see "not ready" first; crashes are still repaired."""
    story = serving("stop_delay=10")
    story.tells(
        """
        5      stop
                 stopping drain=yes delay=10
        6      exited 1/0#1 1
                 worker-exited 1/0#1 how="exited 1" status=1 expected=no
                 spawn 1/0#2
        7      ready 1/0#2
        """
    )
    assert story.fleet.next_deadline() == 15
    story.tells(
        """
        14     time passes
        15     time passes
                 drain 1/0#2
        16     exited 1/0#2 0
                 worker-exited 1/0#2 how="exited 0" status=0 expected=yes
                 generation-gone 1
                 quit 0
        """
    )


def test_a_second_stop_kills() -> None:
    """Also who is draining already; the status is still 0."""
    serving("workers=2").tells(
        """
        5      stop
                 stopping drain=yes delay=0
                 drain 1/0#1
                 drain 1/1#1
        6      exited 1/0#1 0
                 worker-exited 1/0#1 how="exited 0" status=0 expected=yes
        7      stop
                 stopping drain=no delay=0
                 kill 1/1#1
        8      stop
                 stopping drain=no delay=0
        9      exited 1/1#1 137
                 worker-exited 1/1#1 how="exited 137" status=137 expected=yes
                 generation-gone 1
                 quit 0
        """
    )


def test_a_second_stop_does_not_wait_for_the_delay() -> None:
    """Who asks twice means it."""
    serving("stop_delay=10").tells(
        """
        5      stop
                 stopping drain=yes delay=10
        6      stop
                 stopping drain=no delay=0
                 kill 1/0#1
        7      exited 1/0#1 137
                 worker-exited 1/0#1 how="exited 137" status=137 expected=yes
                 generation-gone 1
                 quit 0
        """
    )


def test_stop_without_drain_kills_every_generation() -> None:
    """No worker is asked, no delay is kept, the candidate goes too."""
    serving("stop_delay=10").tells(
        """
        5      rollout deploy
                 rollout-started 2 reason=deploy workers=1
                 spawn 2/0#1
        6      stop now
                 stopping drain=no delay=0
                 rollout-cancelled 2 reason="the service is stopping"
                 kill 1/0#1
                 kill 2/0#1
        7      exited 2/0#1 137
                 worker-exited 2/0#1 how="exited 137" status=137 expected=yes
                 generation-gone 2
        7      exited 1/0#1 137
                 worker-exited 1/0#1 how="exited 137" status=137 expected=yes
                 generation-gone 1
                 quit 0
        """
    )


def test_a_stop_after_giving_up_keeps_the_status() -> None:
    """The reason why it ended has not changed."""
    serving("workers=2 on_exit=exit").tells(
        """
        5      exited 1/0#1 42
                 worker-exited 1/0#1 how="exited 42" status=42 expected=no
                 service-exited 1/0#1 status=42 reason="worker 1/0#1 exited 42"
                 drain 1/1#1
        6      stop
                 stopping drain=yes delay=0
        7      stop
                 stopping drain=no delay=0
                 kill 1/1#1
        8      exited 1/1#1 137
                 worker-exited 1/1#1 how="exited 137" status=137 expected=yes
                 generation-gone 1
                 quit 42
        """
    )


def test_a_crash_after_the_stop_keeps_the_status() -> None:
    """It was asked to end before it failed: 0."""
    serving("stop_delay=10 on_exit=exit").tells(
        """
        5      stop
                 stopping drain=yes delay=10
        6      exited 1/0#1 42
                 worker-exited 1/0#1 how="exited 42" status=42 expected=no
                 service-exited 1/0#1 status=42 reason="worker 1/0#1 exited 42"
                 generation-gone 1
                 quit 0
        """
    )


def test_it_quits_once() -> None:
    """News and wishes that arrive after the end find nobody."""
    serving().tells(
        """
        5      stop
                 stopping drain=yes delay=0
                 drain 1/0#1
        6      exited 1/0#1 0
                 worker-exited 1/0#1 how="exited 0" status=0 expected=yes
                 generation-gone 1
                 quit 0
        7      exited 1/0#1 0
        8      time passes
        9      stop now
                 stopping drain=no delay=0
        """
    )
