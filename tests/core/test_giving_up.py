"""When enough is enough: a service that gives up, or that ends with its worker."""

from __future__ import annotations

from tests.core.transcript import Story, serving


def test_the_first_generation_gives_up_after_three_crashes() -> None:
    """A service that has never been ready is wrong, not unlucky."""
    Story().tells(
        """
        0      rollout start
                 service-starting 1 reason=start workers=1
                 spawn 1/0#1
        0      exited 1/0#1 1
                 worker-exited 1/0#1 how="exited 1" status=1 expected=no
                 worker-backoff 1/0#1 delay=0.5 crashes=1
        0.5    time passes
                 spawn 1/0#2
        1      exited 1/0#2 1
                 worker-exited 1/0#2 how="exited 1" status=1 expected=no
                 worker-backoff 1/0#2 delay=1 crashes=2
        2      time passes
                 spawn 1/0#3
        2      exited 1/0#3 1
                 worker-exited 1/0#3 how="exited 1" status=1 expected=no
                 gave-up 1/0#3 status=5 reason="worker 1/0#3 exited 1, crash 3 in a row"
                 generation-gone 1
                 quit 5
        """
    )


def test_a_first_start_that_is_late_three_times_gives_up() -> None:
    """To be late is to crash, counted once."""
    story = Story()
    story.happens(0, "rollout start ready_timeout=10 max_crashes=2")
    story.tells(
        """
        10     time passes
                 worker-late 1/0#1 how="was not ready within 10 s"
                 kill 1/0#1
        11     exited 1/0#1 137
                 worker-exited 1/0#1 how="exited 137" status=137 expected=no
                 worker-backoff 1/0#1 delay=0.5 crashes=1
        12     time passes
                 spawn 1/0#2
        22     time passes
                 worker-late 1/0#2 how="was not ready within 10 s"
                 kill 1/0#2
        23     exited 1/0#2 137
                 worker-exited 1/0#2 how="exited 137" status=137 expected=no
                 gave-up 1/0#2 status=5 reason="worker 1/0#2 exited 137, crash 2 in a row"
                 generation-gone 1
                 quit 5
        """
    )


def test_a_service_that_was_ready_never_gives_up_unless_told() -> None:
    """Whatever is wrong may pass; the limit of the backoff is the price."""
    story = serving("backoff_limit=1")
    for launch in range(1, 50):
        story.happens(launch * 10, f"exited 1/0#{launch} 1")
        story.happens(launch * 10 + 2, "time passes")
    assert not story.fleet.stopping
    assert story.fleet.roster.current


def test_max_crashes_gives_up() -> None:
    """After N crashes in a row with no worker ready the master ends with status 5."""
    serving("max_crashes=2").tells(
        """
        5      exited 1/0#1 1
                 worker-exited 1/0#1 how="exited 1" status=1 expected=no
                 spawn 1/0#2
        6      exited 1/0#2 1
                 worker-exited 1/0#2 how="exited 1" status=1 expected=no
                 gave-up 1/0#2 status=5 reason="worker 1/0#2 exited 1, crash 2 in a row"
                 generation-gone 1
                 quit 5
        """
    )


def test_the_one_who_crashed_does_not_count_as_ready() -> None:
    """With a patience of one the first crash of the last ready worker is the end."""
    serving("max_crashes=1").tells(
        """
        5      exited 1/0#1 1
                 worker-exited 1/0#1 how="exited 1" status=1 expected=no
                 gave-up 1/0#1 status=5 reason="worker 1/0#1 exited 1, crash 1 in a row"
                 generation-gone 1
                 quit 5
        """
    )


def test_the_service_goes_on_while_another_worker_is_ready() -> None:
    """Half a service is better than none."""
    serving("workers=2 max_crashes=2").tells(
        """
        5      exited 1/0#1 1
                 worker-exited 1/0#1 how="exited 1" status=1 expected=no
                 spawn 1/0#2
        6      exited 1/0#2 1
                 worker-exited 1/0#2 how="exited 1" status=1 expected=no
                 worker-backoff 1/0#2 delay=0.5 crashes=2
        6.1    exited 1/1#1 1
                 worker-exited 1/1#1 how="exited 1" status=1 expected=no
                 spawn 1/1#2
        6.2    exited 1/1#2 1
                 worker-exited 1/1#2 how="exited 1" status=1 expected=no
                 gave-up 1/1#2 status=5 reason="worker 1/1#2 exited 1, crash 2 in a row"
                 generation-gone 1
                 quit 5
        """
    )


def test_the_service_goes_on_while_a_rollout_may_save_it() -> None:
    """A fix is on its way; it is judged before anything is given up."""
    serving("max_crashes=2").tells(
        """
        5      exited 1/0#1 1
                 worker-exited 1/0#1 how="exited 1" status=1 expected=no
                 spawn 1/0#2
        5.5    rollout fixed
                 rollout-started 2 reason=fixed workers=1
                 spawn 2/0#1
        6      exited 1/0#2 1
                 worker-exited 1/0#2 how="exited 1" status=1 expected=no
                 worker-backoff 1/0#2 delay=0.5 crashes=2
        6.4    ready 2/0#1
                 rollout-committed 2 reason=fixed took=0.9
                 generation-gone 1
        """
    )


def test_the_service_gives_up_when_the_rollout_has_failed() -> None:
    """The next crash is one too many again."""
    story = serving("max_crashes=2 backoff=1")
    story.happens(5, "exited 1/0#1 1")
    story.happens(5, "rollout fixed")
    story.tells(
        """
        6      exited 1/0#2 1
                 worker-exited 1/0#2 how="exited 1" status=1 expected=no
                 worker-backoff 1/0#2 delay=1 crashes=2
        6.5    exited 2/0#1 1
                 worker-exited 2/0#1 how="exited 1" status=1 expected=no
                 rollout-rolled-back 2/0#1 reason="worker 2/0#1 exited 1 before it was ready"
                 generation-gone 2
        7      time passes
                 spawn 1/0#3
        7.5    exited 1/0#3 1
                 worker-exited 1/0#3 how="exited 1" status=1 expected=no
                 gave-up 1/0#3 status=5 reason="worker 1/0#3 exited 1, crash 3 in a row"
                 generation-gone 1
                 quit 5
        """
    )


def test_giving_up_drains_what_is_left() -> None:
    """What still starts is asked to go; the status is known when the last one has gone."""
    story = Story()
    story.happens(0, "rollout start workers=2 max_crashes=1")
    story.tells(
        """
        1      exited 1/0#1 1
                 worker-exited 1/0#1 how="exited 1" status=1 expected=no
                 gave-up 1/0#1 status=5 reason="worker 1/0#1 exited 1, crash 1 in a row"
                 drain 1/1#1
        2      exited 1/1#1 0
                 worker-exited 1/1#1 how="exited 0" status=0 expected=yes
                 generation-gone 1
                 quit 5
        """
    )


def test_on_exit_ends_with_the_status_of_the_worker() -> None:
    """The other workers drain first."""
    serving("workers=2 on_exit=exit").tells(
        """
        5      exited 1/0#1 42
                 worker-exited 1/0#1 how="exited 42" status=42 expected=no
                 service-exited 1/0#1 status=42 reason="worker 1/0#1 exited 42"
                 drain 1/1#1
        6      exited 1/1#1 0
                 worker-exited 1/1#1 how="exited 0" status=0 expected=yes
                 generation-gone 1
                 quit 42
        """
    )


def test_on_exit_ends_a_rollout_as_well() -> None:
    """Nobody is left to switch from."""
    serving("on_exit=exit").tells(
        """
        5      rollout deploy
                 rollout-started 2 reason=deploy workers=1
                 spawn 2/0#1
        6      exited 1/0#1 42
                 worker-exited 1/0#1 how="exited 42" status=42 expected=no
                 service-exited 1/0#1 status=42 reason="worker 1/0#1 exited 42"
                 rollout-cancelled 2 reason="worker 1/0#1 exited 42"
                 drain 2/0#1
                 generation-gone 1
        7      exited 2/0#1 0
                 worker-exited 2/0#1 how="exited 0" status=0 expected=yes
                 generation-gone 2
                 quit 42
        """
    )
