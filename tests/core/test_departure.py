"""The way out of a steered service: who is open to all drains, who is cut off may finish."""

from __future__ import annotations

from tests.core.transcript import serving


def test_stop_before_the_cut_over() -> None:
    """All drain: the one because it met nobody, the other because it is open to all."""
    serving("steered=1 settle=3").tells(
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
        """
    )


def test_stop_while_the_old_generation_quiets() -> None:
    """It still gets its time; the current one, which is open to all, drains at once."""
    serving("steered=1").tells(
        """
        5      rollout deploy
                 rollout-started 2 reason=deploy workers=1
                 spawn 2/0#1
        6      ready 2/0#1
                 cut-over 2
                 rollout-committed 2 reason=deploy took=1
                 retire 1/0#1
        7      stop
                 stopping drain=yes delay=0
                 drain 2/0#1
        8      exited 2/0#1 0
                 worker-exited 2/0#1 how="exited 0" status=0 expected=yes
                 generation-gone 2
        9      quiet 1/0#1
                 drain 1/0#1
        10     exited 1/0#1 0
                 worker-exited 1/0#1 how="exited 0" status=0 expected=yes
                 generation-gone 1
                 quit 0
        """
    )


def test_a_second_stop_kills_who_still_quiets() -> None:
    """Who asks twice means it."""
    story = serving("steered=1")
    story.tells(
        """
        5      rollout deploy
                 rollout-started 2 reason=deploy workers=1
                 spawn 2/0#1
        6      ready 2/0#1
                 cut-over 2
                 rollout-committed 2 reason=deploy took=1
                 retire 1/0#1
        7      stop
                 stopping drain=yes delay=0
                 drain 2/0#1
        8      stop
                 stopping drain=no delay=0
                 kill 1/0#1
                 kill 2/0#1
        9      quiet 1/0#1
        9      exited 1/0#1 137
                 worker-exited 1/0#1 how="exited 137" status=137 expected=yes
                 generation-gone 1
        9      exited 2/0#1 137
                 worker-exited 2/0#1 how="exited 137" status=137 expected=yes
                 generation-gone 2
                 quit 0
        """
    )
    assert story.fleet.next_deadline() is None


def test_giving_up_lets_who_quiets_finish() -> None:
    """What the new generation is too broken for, the old one may still end."""
    serving("steered=1 max_crashes=2").tells(
        """
        5      rollout deploy
                 rollout-started 2 reason=deploy workers=1
                 spawn 2/0#1
        6      ready 2/0#1
                 cut-over 2
                 rollout-committed 2 reason=deploy took=1
                 retire 1/0#1
        7      exited 2/0#1 1
                 worker-exited 2/0#1 how="exited 1" status=1 expected=no
                 spawn 2/0#2
        8      exited 2/0#2 1
                 worker-exited 2/0#2 how="exited 1" status=1 expected=no
                 gave-up 2/0#2 status=5 reason="worker 2/0#2 exited 1, crash 2 in a row"
                 generation-gone 2
        9      quiet 1/0#1
                 drain 1/0#1
        10     exited 1/0#1 0
                 worker-exited 1/0#1 how="exited 0" status=0 expected=yes
                 generation-gone 1
                 quit 5
        """
    )


def test_stop_during_a_canary() -> None:
    """The few may finish; the current generation, which is open to all, drains at once."""
    story = serving("steered=1 canary=10:30")
    story.tells(
        """
        5      rollout deploy
                 rollout-started 2 reason=deploy workers=1
                 spawn 2/0#1
        6      ready 2/0#1
                 canary-started 2 percent=10 seconds=30
                 divert 2 10
        7      stop
                 stopping drain=yes delay=0
                 cut-over 1
                 rollout-cancelled 2 reason="the service is stopping"
                 drain 1/0#1
                 retire 2/0#1
        8      quiet 2/0#1
                 drain 2/0#1
        9      exited 2/0#1 0
                 worker-exited 2/0#1 how="exited 0" status=0 expected=yes
                 generation-gone 2
        10     exited 1/0#1 0
                 worker-exited 1/0#1 how="exited 0" status=0 expected=yes
                 generation-gone 1
                 quit 0
        """
    )


def test_a_stop_delay_belongs_to_the_current_generation() -> None:
    """The trial is over at once; the old generation serves on until the drain."""
    serving("steered=1 canary=10:30 stop_delay=10").tells(
        """
        5      rollout deploy
                 rollout-started 2 reason=deploy workers=1
                 spawn 2/0#1
        6      ready 2/0#1
                 canary-started 2 percent=10 seconds=30
                 divert 2 10
        7      stop
                 stopping drain=yes delay=10
                 cut-over 1
                 rollout-cancelled 2 reason="the service is stopping"
                 retire 2/0#1
        8      quiet 2/0#1
                 drain 2/0#1
        17     time passes
                 drain 1/0#1
        """
    )


def test_a_stop_without_drain_during_a_canary() -> None:
    """No worker is asked, and none is waited for."""
    serving("steered=1 canary=10:30").tells(
        """
        5      rollout deploy
                 rollout-started 2 reason=deploy workers=1
                 spawn 2/0#1
        6      ready 2/0#1
                 canary-started 2 percent=10 seconds=30
                 divert 2 10
        7      stop now
                 stopping drain=no delay=0
                 cut-over 1
                 rollout-cancelled 2 reason="the service is stopping"
                 kill 1/0#1
                 kill 2/0#1
        """
    )


def test_stop_at_the_begin_of_an_exclusive_rollout() -> None:
    """The new generation never had a process; what is new is the old one's again, as it goes."""
    serving("steered=1 surge=exclusive").tells(
        """
        5      rollout deploy
                 rollout-started 2 reason=deploy workers=1
                 cut-over 2
                 retire 1/0#1
        6      stop
                 stopping drain=yes delay=0
                 cut-over 1
                 rollout-cancelled 2 reason="the service is stopping"
                 generation-gone 2
        7      quiet 1/0#1
                 drain 1/0#1
        8      exited 1/0#1 0
                 worker-exited 1/0#1 how="exited 0" status=0 expected=yes
                 generation-gone 1
                 quit 0
        """
    )


def test_stop_delay_at_the_begin_of_an_exclusive_rollout() -> None:
    """The old generation serves until the drain: who quiets already goes, and is replaced."""
    serving("steered=1 surge=exclusive stop_delay=10").tells(
        """
        5      rollout deploy
                 rollout-started 2 reason=deploy workers=1
                 cut-over 2
                 retire 1/0#1
        6      stop
                 stopping drain=yes delay=10
                 cut-over 1
                 rollout-cancelled 2 reason="the service is stopping"
                 generation-gone 2
        7      quiet 1/0#1
                 drain 1/0#1
        8      exited 1/0#1 0
                 worker-exited 1/0#1 how="exited 0" status=0 expected=yes
                 spawn 1/0#2
        9      ready 1/0#2
        16     time passes
                 drain 1/0#2
        """
    )


def test_death_after_the_end_of_an_exclusive_rollout() -> None:
    """Who quiets was to go, so that is no crash, and the service does not end for it."""
    serving("steered=1 surge=exclusive stop_delay=10 on_exit=exit").tells(
        """
        5      rollout deploy
                 rollout-started 2 reason=deploy workers=1
                 cut-over 2
                 retire 1/0#1
        6      stop
                 stopping drain=yes delay=10
                 cut-over 1
                 rollout-cancelled 2 reason="the service is stopping"
                 generation-gone 2
        7      exited 1/0#1 139
                 worker-exited 1/0#1 how="exited 139" status=139 expected=yes
                 spawn 1/0#2
        """
    )


def test_stop_with_sockets_that_were_handed_over() -> None:
    """What is new waits outside, so the current generation, too, becomes quiet before it drains."""
    serving("steered=1 parked=1 workers=2 quiet_timeout=4").tells(
        """
        5      stop
                 stopping drain=yes delay=0
                 park (served)
                 retire 1/0#1
                 retire 1/1#1
        6      quiet 1/1#1
                 drain 1/1#1
        9      time passes
                 quiet-timed-out 1/0#1
                 drain 1/0#1
        """
    )
