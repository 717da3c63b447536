"""Who asks while a rollout is going on: one more follows, the newest, and nothing is lost."""

from __future__ import annotations

from tests.core.transcript import serving


def test_a_storm_of_requests_is_one_more_rollout() -> None:
    """Requests during a rollout are remembered as one, however many came."""
    serving().tells(
        """
        5      rollout deploy
                 rollout-started 2 reason=deploy workers=1
                 spawn 2/0#1
        5.1    rollout signal
                 rollout-queued reason=signal
        5.2    rollout signal
        5.3    rollout signal
        6      ready 2/0#1
                 rollout-committed 2 reason=deploy took=1
                 rollout-started 3 reason=signal workers=1
                 drain 1/0#1
                 spawn 3/0#1
        7      ready 3/0#1
                 rollout-committed 3 reason=signal took=1
                 drain 2/0#1
        """
    )


def test_the_newest_request_supersedes_the_pending_one() -> None:
    """Whoever waits for the older one is told."""
    serving().tells(
        """
        5      rollout deploy
                 rollout-started 2 reason=deploy workers=1
                 spawn 2/0#1
        5.1    rollout signal
                 rollout-queued reason=signal
        5.2    rollout watch
                 rollout-superseded reason=signal by=watch
        6      exited 2/0#1 1
                 worker-exited 2/0#1 how="exited 1" status=1 expected=no
                 rollout-rolled-back 2/0#1 reason="worker 2/0#1 exited 1 before it was ready"
                 rollout-started 3 reason=watch workers=1
                 spawn 3/0#1
                 generation-gone 2
        """
    )


def test_a_reread_configuration_is_not_lost() -> None:
    """A request that supersedes a reload still runs with the reloaded configuration."""
    story = serving()
    story.tells(
        """
        5      rollout deploy
                 rollout-started 2 reason=deploy workers=1
                 spawn 2/0#1
        5.1    rollout reload workers=2 settle=3
                 rollout-queued reason=reload
        5.2    rollout signal
                 rollout-superseded reason=reload by=signal
        6      ready 2/0#1
                 rollout-committed 2 reason=deploy took=1
                 rollout-started 3 reason=signal workers=2
                 drain 1/0#1
                 spawn 3/0#1
                 spawn 3/1#1
        7      ready 3/0#1
        7      ready 3/1#1
        """
    )
    assert story.fleet.next_deadline() == 10


def test_a_second_reload_replaces_the_first() -> None:
    """Two reloads have the same reason, and the newer configuration wins."""
    serving().tells(
        """
        5      rollout deploy
                 rollout-started 2 reason=deploy workers=1
                 spawn 2/0#1
        5.1    rollout reload workers=2 settle=3
                 rollout-queued reason=reload
        5.2    rollout reload workers=3 settle=1
                 rollout-superseded reason=reload by=reload
        6      exited 2/0#1 1
                 worker-exited 2/0#1 how="exited 1" status=1 expected=no
                 rollout-rolled-back 2/0#1 reason="worker 2/0#1 exited 1 before it was ready"
                 rollout-started 3 reason=reload workers=3
                 spawn 3/0#1
                 spawn 3/1#1
                 spawn 3/2#1
                 generation-gone 2
        """
    )


def test_a_failed_reload_leaves_no_trace() -> None:
    """The next plain rollout runs as the current generation does."""
    serving().tells(
        """
        5      rollout reload workers=2 settle=3
                 rollout-started 2 reason=reload workers=2
                 spawn 2/0#1
                 spawn 2/1#1
        6      exited 2/0#1 1
                 worker-exited 2/0#1 how="exited 1" status=1 expected=no
                 rollout-rolled-back 2/0#1 reason="worker 2/0#1 exited 1 before it was ready"
                 drain 2/1#1
        7      exited 2/1#1 0
                 worker-exited 2/1#1 how="exited 0" status=0 expected=yes
                 generation-gone 2
        8      rollout signal
                 rollout-started 3 reason=signal workers=1
                 spawn 3/0#1
        9      ready 3/0#1
                 rollout-committed 3 reason=signal took=1
                 drain 1/0#1
        """
    )


def test_rollouts_are_refused_while_stopping() -> None:
    """Also in the delay before the drain."""
    serving("stop_delay=10").tells(
        """
        5      stop
                 stopping drain=yes delay=10
        6      rollout deploy
                 rollout-refused reason="the service is stopping"
        15     time passes
                 drain 1/0#1
        16     rollout deploy
                 rollout-refused reason="the service is stopping"
        """
    )
