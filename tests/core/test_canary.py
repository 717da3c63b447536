"""A candidate that a few users try before all get it."""

from __future__ import annotations

from tests.core.transcript import serving


def test_a_share_tries_it_and_then_all_get_it() -> None:
    """Nobody before it has settled, a share for its time, then the cut-over."""
    story = serving("steered=1 settle=2 canary=10:30")
    story.tells(
        """
        5      rollout deploy
                 rollout-started 2 reason=deploy workers=1
                 spawn 2/0#1
        6      ready 2/0#1
        7      time passes
        8      time passes
                 canary-started 2 percent=10 seconds=30
                 divert 2 10
        37     time passes
        """
    )
    assert story.fleet.next_deadline() == 38
    story.tells(
        """
        38     time passes
                 cut-over 2
                 rollout-committed 2 reason=deploy took=33
                 retire 1/0#1
        """
    )
    assert story.fleet.next_deadline() == 43


def test_a_worker_that_dies_in_it_rolls_back() -> None:
    """All goes to the old generation again; the survivors finish what the few had begun."""
    story = serving("workers=3 steered=1 canary=10:30")
    story.tells(
        """
        5      rollout deploy
                 rollout-started 2 reason=deploy workers=3
                 spawn 2/0#1
                 spawn 2/1#1
                 spawn 2/2#1
        6      ready 2/0#1
        6      ready 2/1#1
        6      ready 2/2#1
                 canary-started 2 percent=10 seconds=30
                 divert 2 10
        9      exited 2/1#1 139
                 worker-exited 2/1#1 how="exited 139" status=139 expected=no
                 cut-over 1
                 rollout-rolled-back 2/1#1 reason="worker 2/1#1 exited 139 before it was committed"
                 retire 2/0#1
                 retire 2/2#1
        10     quiet 2/0#1
                 drain 2/0#1
        14     time passes
                 quiet-timed-out 2/2#1
                 drain 2/2#1
        15     exited 2/0#1 0
                 worker-exited 2/0#1 how="exited 0" status=0 expected=yes
        16     exited 2/2#1 0
                 worker-exited 2/2#1 how="exited 0" status=0 expected=yes
                 generation-gone 2
        """
    )
    assert story.fleet.next_deadline() is None


def test_an_unhealthy_worker_rolls_back() -> None:
    """That is what it is tried for; the sick worker too may finish what it has."""
    serving("workers=2 steered=1 canary=10:30").tells(
        """
        5      rollout deploy
                 rollout-started 2 reason=deploy workers=2
                 spawn 2/0#1
                 spawn 2/1#1
        6      ready 2/0#1
        6      ready 2/1#1
                 canary-started 2 percent=10 seconds=30
                 divert 2 10
        9      unhealthy 2/1#1
                 cut-over 1
                 rollout-rolled-back 2/1#1 reason="worker 2/1#1 is unhealthy"
                 retire 2/0#1
                 retire 2/1#1
        9      unhealthy 2/0#1
        10     exited 2/1#1 1
                 worker-exited 2/1#1 how="exited 1" status=1 expected=yes
        """
    )


def test_health_counts_in_a_canary_only() -> None:
    """Before it readiness is the judge, after it nobody: a restart would help no more."""
    serving("steered=1 settle=2 canary=10:30").tells(
        """
        4      unhealthy 1/0#1
        5      rollout deploy
                 rollout-started 2 reason=deploy workers=1
                 spawn 2/0#1
        5      unhealthy 2/0#1
        6      ready 2/0#1
        7      unhealthy 2/0#1
        8      time passes
                 canary-started 2 percent=10 seconds=30
                 divert 2 10
        9      unhealthy 1/0#1
        38     time passes
                 cut-over 2
                 rollout-committed 2 reason=deploy took=33
                 retire 1/0#1
        39     unhealthy 2/0#1
        40     unhealthy 1/0#1
        """
    )


def test_health_counts_for_who_is_ready_only() -> None:
    """Who is on its way out, or not yet in, is not what is tried."""
    serving("workers=2 steered=1 canary=10:30").tells(
        """
        5      rollout deploy
                 rollout-started 2 reason=deploy workers=2
                 spawn 2/0#1
                 spawn 2/1#1
        6      ready 2/0#1
        6      ready 2/1#1
                 canary-started 2 percent=10 seconds=30
                 divert 2 10
        7      scale to 1
                 scaled workers=1
                 drain 1/1#1
                 drain 2/1#1
        8      unhealthy 2/1#1
        9      exited 2/1#1 0
                 worker-exited 2/1#1 how="exited 0" status=0 expected=yes
        10     scale to 2
                 scaled workers=2
                 spawn 2/1#2
        11     unhealthy 2/1#2
        12     ready 2/1#2
        12.5   unhealthy 2/1#1
        13     unhealthy 2/1#2
                 cut-over 1
                 rollout-rolled-back 2/1#2 reason="worker 2/1#2 is unhealthy"
                 retire 2/0#1
                 retire 2/1#2
        """
    )


def test_a_rollback_does_not_wait_for_the_old_generation() -> None:
    """The failed one stands in for nobody: nothing new comes to it any more."""
    serving("workers=2 steered=1 canary=10:30 backoff=4").tells(
        """
        5      rollout deploy
                 rollout-started 2 reason=deploy workers=2
                 spawn 2/0#1
                 spawn 2/1#1
        6      ready 2/0#1
        6      ready 2/1#1
                 canary-started 2 percent=10 seconds=30
                 divert 2 10
        7      exited 1/0#1 1
                 worker-exited 1/0#1 how="exited 1" status=1 expected=no
                 spawn 1/0#2
        8      exited 1/0#2 1
                 worker-exited 1/0#2 how="exited 1" status=1 expected=no
                 worker-backoff 1/0#2 delay=4 crashes=2
        9      exited 2/1#1 1
                 worker-exited 2/1#1 how="exited 1" status=1 expected=no
                 cut-over 1
                 rollout-rolled-back 2/1#1 reason="worker 2/1#1 exited 1 before it was committed"
                 retire 2/0#1
        12     time passes
                 spawn 1/0#3
        """
    )


def test_a_rollback_leaves_those_alone_who_share() -> None:
    """Who stands in beside the old generation gets as much of what is new as that does."""
    story = serving("workers=2 backoff=20 backoff_limit=20")
    for deed in ("rollout deploy", "ready 2/0#1", "ready 2/1#1"):
        story.happens(1, deed)  # the sockets are still those of the first generation
    for deed in ("exited 2/0#1 1", "exited 2/0#2 1"):
        story.happens(2, deed)
    for deed in ("rollout fixed", "ready 3/0#1", "exited 3/1#1 1"):
        story.happens(3, deed)  # and 3/0 stands in for 2/0
    story.tells(
        """
        4      rollout reload workers=2 steered=1 canary=10:30
                 rollout-started 4 reason=reload workers=2
                 spawn 4/0#1
                 spawn 4/1#1
        5      ready 4/0#1
        5      ready 4/1#1
                 canary-started 4 percent=10 seconds=30
                 divert 4 10
        6      unhealthy 4/1#1
                 cut-over 2
                 rollout-rolled-back 4/1#1 reason="worker 4/1#1 is unhealthy"
                 retire 4/0#1
                 retire 4/1#1
        7      quiet 4/0#1
                 drain 4/0#1
        7      quiet 4/1#1
                 drain 4/1#1
        22     time passes
                 spawn 2/0#3
        23     ready 2/0#3
                 drain 3/0#1
        """
    )


def test_the_old_generation_heals_itself_meanwhile() -> None:
    """It has most of the users still."""
    serving("steered=1 canary=10:30").tells(
        """
        5      rollout deploy
                 rollout-started 2 reason=deploy workers=1
                 spawn 2/0#1
        6      ready 2/0#1
                 canary-started 2 percent=10 seconds=30
                 divert 2 10
        7      exited 1/0#1 1
                 worker-exited 1/0#1 how="exited 1" status=1 expected=no
                 spawn 1/0#2
        8      ready 1/0#2
        36     time passes
                 cut-over 2
                 rollout-committed 2 reason=deploy took=31
                 retire 1/0#2
        """
    )


def test_a_rollout_asked_for_meanwhile_waits() -> None:
    """The trial is part of the rollout; the next one has its own."""
    serving("steered=1 canary=10:30").tells(
        """
        5      rollout deploy
                 rollout-started 2 reason=deploy workers=1
                 spawn 2/0#1
        6      ready 2/0#1
                 canary-started 2 percent=10 seconds=30
                 divert 2 10
        7      rollout signal
                 rollout-queued reason=signal
        36     time passes
                 cut-over 2
                 rollout-committed 2 reason=deploy took=31
                 rollout-started 3 reason=signal workers=1
                 retire 1/0#1
                 spawn 3/0#1
        37     ready 3/0#1
                 canary-started 3 percent=10 seconds=30
                 divert 3 10
        """
    )


def test_a_rollout_asked_for_meanwhile_follows_a_failure() -> None:
    """What is new goes to the current generation while the next candidate starts."""
    serving("steered=1 canary=10:30").tells(
        """
        5      rollout deploy
                 rollout-started 2 reason=deploy workers=1
                 spawn 2/0#1
        6      ready 2/0#1
                 canary-started 2 percent=10 seconds=30
                 divert 2 10
        7      rollout fixed
                 rollout-queued reason=fixed
        8      exited 2/0#1 1
                 worker-exited 2/0#1 how="exited 1" status=1 expected=no
                 cut-over 1
                 rollout-rolled-back 2/0#1 reason="worker 2/0#1 exited 1 before it was committed"
                 rollout-started 3 reason=fixed workers=1
                 spawn 3/0#1
                 generation-gone 2
        9      ready 3/0#1
                 canary-started 3 percent=10 seconds=30
                 divert 3 10
        """
    )


def test_a_share_needs_sockets_of_its_own() -> None:
    """By a shared socket nobody can say who tries what."""
    serving("steered=0 canary=10:30").tells(
        """
        5      rollout deploy
                 rollout-started 2 reason=deploy workers=1
                 spawn 2/0#1
        6      ready 2/0#1
                 rollout-committed 2 reason=deploy took=1
                 drain 1/0#1
        """
    )


def test_a_share_needs_somebody_who_has_the_rest() -> None:
    """By exclusive the new generation has all of it anyway."""
    serving("steered=1 surge=exclusive canary=10:30").tells(
        """
        5      rollout deploy
                 rollout-started 2 reason=deploy workers=1
                 cut-over 2
                 retire 1/0#1
        6      quiet 1/0#1
                 drain 1/0#1
        7      exited 1/0#1 0
                 worker-exited 1/0#1 how="exited 0" status=0 expected=yes
                 spawn 2/0#1
        8      ready 2/0#1
                 rollout-committed 2 reason=deploy took=3
                 generation-gone 1
        """
    )
