"""A program that cannot run twice: the old go first, then come the new."""

from __future__ import annotations

from tests.core.transcript import serving


def test_exclusive_waits_until_the_old_are_gone() -> None:
    """No process of the new generation while one of the old is left."""
    serving("workers=2 surge=exclusive").tells(
        """
        5      rollout deploy
                 rollout-started 2 reason=deploy workers=2
                 drain 1/0#1
                 drain 1/1#1
        6      exited 1/0#1 0
                 worker-exited 1/0#1 how="exited 0" status=0 expected=yes
        7      exited 1/1#1 0
                 worker-exited 1/1#1 how="exited 0" status=0 expected=yes
                 spawn 2/0#1
                 spawn 2/1#1
        8      ready 2/0#1
        8      ready 2/1#1
                 rollout-committed 2 reason=deploy took=3
                 generation-gone 1
        """
    )


def test_exclusive_waits_for_a_killed_worker_too() -> None:
    """A kill is only an order; the process is gone when its exit is known."""
    serving("surge=exclusive drain_timeout=30").tells(
        """
        5      rollout deploy
                 rollout-started 2 reason=deploy workers=1
                 drain 1/0#1
        35     time passes
                 drain-timed-out 1/0#1
                 kill 1/0#1
        36     exited 1/0#1 137
                 worker-exited 1/0#1 how="exited 137" status=137 expected=yes
                 spawn 2/0#1
        """
    )


def test_exclusive_failure_brings_the_old_back() -> None:
    """The old generation is started again once the failed one is gone entirely."""
    serving("workers=2 surge=exclusive").tells(
        """
        5      rollout deploy
                 rollout-started 2 reason=deploy workers=2
                 drain 1/0#1
                 drain 1/1#1
        6      exited 1/0#1 0
                 worker-exited 1/0#1 how="exited 0" status=0 expected=yes
        6      exited 1/1#1 0
                 worker-exited 1/1#1 how="exited 0" status=0 expected=yes
                 spawn 2/0#1
                 spawn 2/1#1
        7      exited 2/0#1 1
                 worker-exited 2/0#1 how="exited 1" status=1 expected=no
                 rollout-rolled-back 2/0#1 reason="worker 2/0#1 exited 1 before it was ready"
                 drain 2/1#1
        8      exited 2/1#1 0
                 worker-exited 2/1#1 how="exited 0" status=0 expected=yes
                 spawn 1/0#2
                 spawn 1/1#2
                 generation-gone 2
        9      ready 1/0#2
        """
    )


def test_exclusive_failure_with_another_rollout_pending() -> None:
    """The next candidate takes over; the old generation need not come back in between."""
    serving("surge=exclusive").tells(
        """
        5      rollout deploy
                 rollout-started 2 reason=deploy workers=1
                 drain 1/0#1
        5.5    rollout fixed
                 rollout-queued reason=fixed
        6      exited 1/0#1 0
                 worker-exited 1/0#1 how="exited 0" status=0 expected=yes
                 spawn 2/0#1
        7      exited 2/0#1 1
                 worker-exited 2/0#1 how="exited 1" status=1 expected=no
                 rollout-rolled-back 2/0#1 reason="worker 2/0#1 exited 1 before it was ready"
                 rollout-started 3 reason=fixed workers=1
                 spawn 3/0#1
                 generation-gone 2
        8      ready 3/0#1
                 rollout-committed 3 reason=fixed took=1
                 generation-gone 1
        """
    )


def test_exclusive_rollout_of_a_service_in_backoff_starts_at_once() -> None:
    """A slot that only waits has no process to wait for."""
    serving("surge=exclusive backoff=4").tells(
        """
        5      exited 1/0#1 1
                 worker-exited 1/0#1 how="exited 1" status=1 expected=no
                 spawn 1/0#2
        6      exited 1/0#2 1
                 worker-exited 1/0#2 how="exited 1" status=1 expected=no
                 worker-backoff 1/0#2 delay=4 crashes=2
        7      rollout fixed
                 rollout-started 2 reason=fixed workers=1
                 spawn 2/0#1
        8      ready 2/0#1
                 rollout-committed 2 reason=fixed took=1
                 generation-gone 1
        """
    )


def test_exclusive_is_obeyed_when_the_new_configuration_asks_for_it() -> None:
    """The candidate's own policy decides, also when the current one could overlap."""
    serving().tells(
        """
        5      rollout reload surge=exclusive
                 rollout-started 2 reason=reload workers=1
                 drain 1/0#1
        6      exited 1/0#1 0
                 worker-exited 1/0#1 how="exited 0" status=0 expected=yes
                 spawn 2/0#1
        """
    )


def test_steered_exclusive_cuts_over_first_of_all() -> None:
    """What is new waits in the new sockets; the old worker finishes and goes, and it is served."""
    serving("workers=2 steered=1 surge=exclusive settle=2").tells(
        """
        5      rollout deploy
                 rollout-started 2 reason=deploy workers=2
                 cut-over 2
                 retire 1/0#1
                 retire 1/1#1
        6      quiet 1/1#1
                 drain 1/1#1
        7      exited 1/1#1 0
                 worker-exited 1/1#1 how="exited 0" status=0 expected=yes
        10     time passes
                 quiet-timed-out 1/0#1
                 drain 1/0#1
        11     exited 1/0#1 0
                 worker-exited 1/0#1 how="exited 0" status=0 expected=yes
                 spawn 2/0#1
                 spawn 2/1#1
        12     ready 2/0#1
        12     ready 2/1#1
        14     time passes
                 rollout-committed 2 reason=deploy took=9
                 generation-gone 1
        """
    )


def test_steered_exclusive_drains_what_was_only_starting() -> None:
    """It would be in the way of the new one for nothing."""
    story = serving("steered=1 surge=exclusive")
    story.happens(4, "exited 1/0#1 1")
    story.tells(
        """
        5      rollout deploy
                 rollout-started 2 reason=deploy workers=1
                 cut-over 2
                 drain 1/0#2
        6      exited 1/0#2 0
                 worker-exited 1/0#2 how="exited 0" status=0 expected=yes
                 spawn 2/0#1
        """
    )


def test_steered_exclusive_failure_cuts_back() -> None:
    """The old generation gets all that is new, and comes back when the failed one is gone."""
    serving("workers=2 steered=1 surge=exclusive settle=2").tells(
        """
        5      rollout deploy
                 rollout-started 2 reason=deploy workers=2
                 cut-over 2
                 retire 1/0#1
                 retire 1/1#1
        6      quiet 1/0#1
                 drain 1/0#1
        6      quiet 1/1#1
                 drain 1/1#1
        7      exited 1/0#1 0
                 worker-exited 1/0#1 how="exited 0" status=0 expected=yes
        7      exited 1/1#1 0
                 worker-exited 1/1#1 how="exited 0" status=0 expected=yes
                 spawn 2/0#1
                 spawn 2/1#1
        8      ready 2/0#1
        9      exited 2/1#1 1
                 worker-exited 2/1#1 how="exited 1" status=1 expected=no
                 cut-over 1
                 rollout-rolled-back 2/1#1 reason="worker 2/1#1 exited 1 before it was ready"
                 retire 2/0#1
        10     quiet 2/0#1
                 drain 2/0#1
        11     exited 2/0#1 0
                 worker-exited 2/0#1 how="exited 0" status=0 expected=yes
                 spawn 1/0#2
                 spawn 1/1#2
                 generation-gone 2
        12     ready 1/0#2
        12     ready 1/1#2
        13     scale to 1
                 scaled workers=1
                 drain 1/1#2
        """
    )


def test_steered_exclusive_failure_with_another_rollout_pending() -> None:
    """What is new goes back for a moment, and then to the next candidate."""
    serving("steered=1 surge=exclusive").tells(
        """
        5      rollout deploy
                 rollout-started 2 reason=deploy workers=1
                 cut-over 2
                 retire 1/0#1
        5.5    rollout fixed
                 rollout-queued reason=fixed
        6      quiet 1/0#1
                 drain 1/0#1
        7      exited 1/0#1 0
                 worker-exited 1/0#1 how="exited 0" status=0 expected=yes
                 spawn 2/0#1
        8      exited 2/0#1 1
                 worker-exited 2/0#1 how="exited 1" status=1 expected=no
                 cut-over 1
                 rollout-rolled-back 2/0#1 reason="worker 2/0#1 exited 1 before it was ready"
                 rollout-started 3 reason=fixed workers=1
                 cut-over 3
                 spawn 3/0#1
                 generation-gone 2
        9      ready 3/0#1
                 rollout-committed 3 reason=fixed took=1
                 generation-gone 1
        """
    )


def test_steered_exclusive_waits_for_all_who_quiet() -> None:
    """Also for a generation that an earlier rollout has left behind."""
    serving("steered=1").tells(
        """
        5      rollout deploy
                 rollout-started 2 reason=deploy workers=1
                 spawn 2/0#1
        6      ready 2/0#1
                 cut-over 2
                 rollout-committed 2 reason=deploy took=1
                 retire 1/0#1
        7      rollout reload steered=1 surge=exclusive
                 rollout-started 3 reason=reload workers=1
                 cut-over 3
                 retire 2/0#1
        8      quiet 2/0#1
                 drain 2/0#1
        9      exited 2/0#1 0
                 worker-exited 2/0#1 how="exited 0" status=0 expected=yes
        11     time passes
                 quiet-timed-out 1/0#1
                 drain 1/0#1
        12     exited 1/0#1 0
                 worker-exited 1/0#1 how="exited 0" status=0 expected=yes
                 spawn 3/0#1
                 generation-gone 1
        """
    )


def test_shared_exclusive_cuts_nothing_over() -> None:
    """With one socket for all what is new waits there, for whoever comes next."""
    serving("steered=1").tells(
        """
        5      rollout reload steered=0 surge=exclusive
                 rollout-started 2 reason=reload workers=1
                 drain 1/0#1
        6      exited 1/0#1 0
                 worker-exited 1/0#1 how="exited 0" status=0 expected=yes
                 spawn 2/0#1
        7      exited 2/0#1 1
                 worker-exited 2/0#1 how="exited 1" status=1 expected=no
                 rollout-rolled-back 2/0#1 reason="worker 2/0#1 exited 1 before it was ready"
                 spawn 1/0#2
                 generation-gone 2
        8      ready 1/0#2
        """
    )
