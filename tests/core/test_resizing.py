"""More workers, fewer workers, while old and new have sockets of their own."""

from __future__ import annotations

from tests.core.transcript import serving


def test_scaling_down_drains_at_once() -> None:
    """Its socket still gets what is new: a worker that shares it is never quiet."""
    serving("workers=2 steered=1").tells(
        """
        5      scale to 1
                 scaled workers=1
                 drain 1/1#1
        """
    )


def test_scaling_down_during_a_rollout() -> None:
    """The generation that serves loses a worker now; when it is cut off, the rest retires."""
    serving("workers=3 steered=1").tells(
        """
        5      rollout deploy
                 rollout-started 2 reason=deploy workers=3
                 spawn 2/0#1
                 spawn 2/1#1
                 spawn 2/2#1
        6      ready 2/0#1
        7      scale to 2
                 scaled workers=2
                 drain 2/2#1
                 drain 1/2#1
        8      scale to 1
                 scaled workers=1
                 cut-over 2
                 rollout-committed 2 reason=deploy took=3
                 drain 2/1#1
                 retire 1/0#1
                 retire 1/1#1
        """
    )


def test_scaling_up_is_not_for_who_quiets() -> None:
    """A generation that is on its way out does not grow any more."""
    serving("steered=1").tells(
        """
        5      rollout deploy
                 rollout-started 2 reason=deploy workers=1
                 spawn 2/0#1
        6      ready 2/0#1
                 cut-over 2
                 rollout-committed 2 reason=deploy took=1
                 retire 1/0#1
        7      scale to 2
                 scaled workers=2
                 spawn 2/1#1
        """
    )


def test_scaling_up_during_a_canary() -> None:
    """The newcomer has to settle too; the time of the trial goes on."""
    story = serving("steered=1 settle=2 canary=10:30")
    story.tells(
        """
        5      rollout deploy
                 rollout-started 2 reason=deploy workers=1
                 spawn 2/0#1
        6      ready 2/0#1
        8      time passes
                 canary-started 2 percent=10 seconds=30
                 divert 2 10
        9      scale to 2
                 scaled workers=2
                 spawn 1/1#1
                 spawn 2/1#1
        """
    )
    assert story.fleet.next_deadline() == 69  # the newcomers must be ready by then
    story.tells(
        """
        10     ready 1/1#1
        11     ready 2/1#1
        13     time passes
        """
    )
    assert story.fleet.next_deadline() == 38
    story.tells(
        """
        38     time passes
                 cut-over 2
                 rollout-committed 2 reason=deploy took=33
                 retire 1/0#1
                 retire 1/1#1
        """
    )


def test_scaling_up_at_the_end_of_a_canary() -> None:
    """A trial that is over waits for the newcomer, and no deadline stays in the past."""
    story = serving("steered=1 settle=2 canary=10:30")
    story.happens(5, "rollout deploy")
    story.happens(6, "ready 2/0#1")
    story.happens(8, "time passes")
    story.tells(
        """
        37     scale to 2
                 scaled workers=2
                 spawn 1/1#1
                 spawn 2/1#1
        38     time passes
        """
    )
    assert story.fleet.next_deadline() == 97
    story.tells(
        """
        40     ready 2/1#1
        """
    )
    assert story.fleet.next_deadline() == 42
    story.tells(
        """
        42     time passes
                 cut-over 2
                 rollout-committed 2 reason=deploy took=37
                 drain 1/1#1
                 retire 1/0#1
        """
    )


def test_a_late_newcomer_ends_the_canary() -> None:
    """Also the worker that the service was scaled up by belongs to the trial."""
    serving("steered=1 canary=10:30 ready_timeout=10").tells(
        """
        5      rollout deploy
                 rollout-started 2 reason=deploy workers=1
                 spawn 2/0#1
        6      ready 2/0#1
                 canary-started 2 percent=10 seconds=30
                 divert 2 10
        7      scale to 2
                 scaled workers=2
                 spawn 1/1#1
                 spawn 2/1#1
        8      ready 1/1#1
        17     time passes
                 worker-late 2/1#1 how="was not ready within 10 s"
                 cut-over 1
                 rollout-rolled-back 2/1#1 reason="worker 2/1#1 was not ready within 10 s"
                 drain 2/1#1
                 retire 2/0#1
        """
    )
