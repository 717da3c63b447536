"""More workers, fewer workers, at any time."""

from __future__ import annotations

from tests.core.transcript import Story, serving


def test_scaling_up_fills_the_new_slots() -> None:
    """The workers that are there are not touched."""
    serving().tells(
        """
        5      scale to 3
                 scaled workers=3
                 spawn 1/1#1
                 spawn 1/2#1
        6      ready 1/1#1
        """
    )


def test_scaling_down_drains_the_last_slots() -> None:
    """They are not respawned."""
    serving("workers=3").tells(
        """
        5      scale to 1
                 scaled workers=1
                 drain 1/1#1
                 drain 1/2#1
        6      exited 1/2#1 0
                 worker-exited 1/2#1 how="exited 0" status=0 expected=yes
        7      exited 1/1#1 1
                 worker-exited 1/1#1 how="exited 1" status=1 expected=yes
        """
    )


def test_one_worker_is_always_kept() -> None:
    """No scale stops the service; that is another request."""
    serving("workers=2").tells(
        """
        5      scale to 0
                 scaled workers=1
                 drain 1/1#1
        6      scale to -3
                 scaled workers=1
        """
    )


def test_scaling_up_again_waits_for_a_draining_worker() -> None:
    """A slot has one process of a generation at a time."""
    serving("workers=2").tells(
        """
        5      scale to 1
                 scaled workers=1
                 drain 1/1#1
        6      scale to 2
                 scaled workers=2
        7      exited 1/1#1 0
                 worker-exited 1/1#1 how="exited 0" status=0 expected=yes
                 spawn 1/1#2
        """
    )


def test_scaling_down_forgets_a_waiting_slot() -> None:
    """A slot that is gone does not come back when its delay is over."""
    story = serving("workers=2")
    story.tells(
        """
        5      exited 1/1#1 1
                 worker-exited 1/1#1 how="exited 1" status=1 expected=no
                 spawn 1/1#2
        6      exited 1/1#2 1
                 worker-exited 1/1#2 how="exited 1" status=1 expected=no
                 worker-backoff 1/1#2 delay=0.5 crashes=2
        6.2    scale to 1
                 scaled workers=1
        """
    )
    assert story.fleet.next_deadline() is None


def test_scaling_up_during_a_rollout_settles_again() -> None:
    """Both generations grow, and the new one is judged as a whole."""
    serving("settle=5").tells(
        """
        5      rollout deploy
                 rollout-started 2 reason=deploy workers=1
                 spawn 2/0#1
        6      ready 2/0#1
        7      scale to 2
                 scaled workers=2
                 spawn 1/1#1
                 spawn 2/1#1
        8      ready 1/1#1
        11     time passes
        12     ready 2/1#1
        16     time passes
        17     time passes
                 rollout-committed 2 reason=deploy took=12
                 drain 1/0#1
                 drain 1/1#1
        """
    )


def test_scaling_down_during_a_rollout_may_complete_it() -> None:
    """The slot that everybody waited for is no longer asked for."""
    serving("workers=2").tells(
        """
        5      rollout deploy
                 rollout-started 2 reason=deploy workers=2
                 spawn 2/0#1
                 spawn 2/1#1
        6      ready 2/0#1
        7      scale to 1
                 scaled workers=1
                 rollout-committed 2 reason=deploy took=2
                 drain 2/1#1
                 drain 1/0#1
                 drain 1/1#1
        """
    )


def test_scaling_outlives_the_rollout() -> None:
    """The next generation has as many workers as the service was scaled to."""
    story = serving()
    story.happens(5, "scale to 2")
    story.happens(6, "ready 1/1#1")
    story.tells(
        """
        7      rollout deploy
                 rollout-started 2 reason=deploy workers=2
                 spawn 2/0#1
                 spawn 2/1#1
        """
    )


def test_scaling_in_batches_below_what_was_proven() -> None:
    """The batches that are left end at the new size."""
    serving("workers=4 surge=2").tells(
        """
        5      rollout deploy
                 rollout-started 2 reason=deploy workers=4
                 spawn 2/0#1
                 spawn 2/1#1
        6      ready 2/0#1
        6      ready 2/1#1
                 drain 1/0#1
                 drain 1/1#1
        7      exited 1/0#1 0
                 worker-exited 1/0#1 how="exited 0" status=0 expected=yes
                 batch-opened 2 slots=3
                 spawn 2/2#1
        8      scale to 1
                 scaled workers=1
                 rollout-committed 2 reason=deploy took=3
                 drain 2/2#1
                 drain 1/2#1
                 drain 1/3#1
                 drain 2/1#1
        """
    )


def test_scaling_down_and_up_again_in_batches() -> None:
    """What was the last batch for a moment has not settled as such; no deadline is left of it."""
    story = serving("workers=2 surge=1 settle=1")
    story.tells(
        """
        5      rollout deploy
                 rollout-started 2 reason=deploy workers=2
                 spawn 2/0#1
        6      ready 2/0#1
        7      time passes
                 drain 1/0#1
        7.1    scale to 1
                 scaled workers=1
                 drain 1/1#1
        7.2    scale to 2
                 scaled workers=2
        """
    )
    assert story.fleet.next_deadline() == 37  # the drain's
    story.tells(
        """
        8      exited 1/0#1 0
                 worker-exited 1/0#1 how="exited 0" status=0 expected=yes
                 batch-opened 2 slots=2
                 spawn 2/1#1
        """
    )


def test_scaling_before_the_start_has_nothing_to_scale() -> None:
    """The size that counts comes with the first rollout."""
    Story().tells(
        """
        0      scale to 3
                 scaled workers=3
        1      rollout start
                 service-starting 1 reason=start workers=1
                 spawn 1/0#1
        """
    )


def test_scaling_outlasts_an_older_reload_that_waits() -> None:
    """The newest word on the number of workers counts."""
    story = serving()
    story.happens(5, "rollout deploy")
    story.happens(6, "rollout reload workers=3")
    story.happens(7, "scale to 2")
    story.happens(8, "ready 2/0#1")
    story.tells(
        """
        9      ready 2/1#1
                 rollout-committed 2 reason=deploy took=4
                 rollout-started 3 reason=reload workers=2
                 drain 1/1#1
                 drain 1/0#1
                 spawn 3/0#1
                 spawn 3/1#1
        """
    )
