"""Nothing new comes to an old worker: it drains when it is quiet, or has had its time."""

from __future__ import annotations

from tests.core.transcript import serving


def test_each_worker_is_quiet_at_its_own_time() -> None:
    """Nobody waits for the other: who has finished may go."""
    serving("workers=3 steered=1 quiet_timeout=5").tells(
        """
        5      rollout deploy
                 rollout-started 2 reason=deploy workers=3
                 spawn 2/0#1
                 spawn 2/1#1
                 spawn 2/2#1
        6      ready 2/0#1
        6      ready 2/1#1
        6      ready 2/2#1
                 cut-over 2
                 rollout-committed 2 reason=deploy took=1
                 retire 1/0#1
                 retire 1/1#1
                 retire 1/2#1
        7      quiet 1/1#1
                 drain 1/1#1
        8      exited 1/1#1 0
                 worker-exited 1/1#1 how="exited 0" status=0 expected=yes
        9      quiet 1/0#1
                 drain 1/0#1
        11     time passes
                 quiet-timed-out 1/2#1
                 drain 1/2#1
        12     exited 1/0#1 0
                 worker-exited 1/0#1 how="exited 0" status=0 expected=yes
        13     exited 1/2#1 0
                 worker-exited 1/2#1 how="exited 0" status=0 expected=yes
                 generation-gone 1
        """
    )


def test_quiet_timeout_drains() -> None:
    """A client that never leaves gets the time-out, and then the program's own drain."""
    story = serving("steered=1 quiet_timeout=5 drain_timeout=30")
    story.tells(
        """
        5      rollout deploy
                 rollout-started 2 reason=deploy workers=1
                 spawn 2/0#1
        6      ready 2/0#1
                 cut-over 2
                 rollout-committed 2 reason=deploy took=1
                 retire 1/0#1
        10     time passes
        """
    )
    assert story.fleet.next_deadline() == 11
    story.tells(
        """
        11     time passes
                 quiet-timed-out 1/0#1
                 drain 1/0#1
        12     quiet 1/0#1
        40     time passes
        41     time passes
                 drain-timed-out 1/0#1
                 kill 1/0#1
        """
    )


def test_a_quieting_worker_may_not_ask_for_more_time() -> None:
    """To be quiet is nothing that it does; it may ask when it drains."""
    serving("steered=1 quiet_timeout=5 drain_timeout=30").tells(
        """
        5      rollout deploy
                 rollout-started 2 reason=deploy workers=1
                 spawn 2/0#1
        6      ready 2/0#1
                 cut-over 2
                 rollout-committed 2 reason=deploy took=1
                 retire 1/0#1
        7      extended 1/0#1 by 60
        11     time passes
                 quiet-timed-out 1/0#1
                 drain 1/0#1
        12     extended 1/0#1 by 60
        41     time passes
        """
    )


def test_no_quiet_timeout_drains_at_the_cut_over() -> None:
    """Who gives it no time wants the drain at once."""
    serving("steered=1 quiet_timeout=0").tells(
        """
        5      rollout deploy
                 rollout-started 2 reason=deploy workers=1
                 spawn 2/0#1
        6      ready 2/0#1
                 cut-over 2
                 rollout-committed 2 reason=deploy took=1
                 drain 1/0#1
        """
    )


def test_death_while_quieting_is_no_news() -> None:
    """It was to go anyway: nothing is respawned, and late news of it matches nothing."""
    serving("workers=2 steered=1").tells(
        """
        5      rollout deploy
                 rollout-started 2 reason=deploy workers=2
                 spawn 2/0#1
                 spawn 2/1#1
        6      ready 2/0#1
        6      ready 2/1#1
                 cut-over 2
                 rollout-committed 2 reason=deploy took=1
                 retire 1/0#1
                 retire 1/1#1
        7      exited 1/0#1 139
                 worker-exited 1/0#1 how="exited 139" status=139 expected=yes
        8      quiet 1/0#1
        11     time passes
                 quiet-timed-out 1/1#1
                 drain 1/1#1
        12     exited 1/1#1 0
                 worker-exited 1/1#1 how="exited 0" status=0 expected=yes
                 generation-gone 1
        """
    )


def test_only_who_is_retiring_becomes_quiet() -> None:
    """One that serves may have nothing to do for a while; and nobody drains twice."""
    serving("steered=1").tells(
        """
        3      exited 1/0#1 1
                 worker-exited 1/0#1 how="exited 1" status=1 expected=no
                 spawn 1/0#2
        3.5    ready 1/0#2
        4      quiet 1/0#2
        5      rollout deploy
                 rollout-started 2 reason=deploy workers=1
                 spawn 2/0#1
        5      quiet 2/0#1
        6      ready 2/0#1
                 cut-over 2
                 rollout-committed 2 reason=deploy took=1
                 retire 1/0#2
        7      quiet 2/0#1
        7      quiet 1/0#1
        8      quiet 1/0#2
                 drain 1/0#2
        9      quiet 1/0#2
        """
    )


def test_what_was_only_starting_drains_at_once() -> None:
    """A respawn that is not ready yet has nothing to finish."""
    serving("workers=2 steered=1").tells(
        """
        5      rollout deploy
                 rollout-started 2 reason=deploy workers=2
                 spawn 2/0#1
                 spawn 2/1#1
        6      ready 2/0#1
        7      exited 1/1#1 1
                 worker-exited 1/1#1 how="exited 1" status=1 expected=no
                 spawn 1/1#2
        8      ready 2/1#1
                 cut-over 2
                 rollout-committed 2 reason=deploy took=3
                 drain 1/1#2
                 retire 1/0#1
        """
    )


def test_a_smaller_generation_lets_all_become_quiet() -> None:
    """Also those in slots that the new configuration does not have."""
    serving("workers=2 steered=1").tells(
        """
        5      rollout reload workers=1 steered=1
                 rollout-started 2 reason=reload workers=1
                 spawn 2/0#1
        6      ready 2/0#1
                 cut-over 2
                 rollout-committed 2 reason=reload took=1
                 retire 1/0#1
                 retire 1/1#1
        """
    )


def test_rollout_while_the_old_generation_quiets() -> None:
    """It begins at once; each old generation has its own time."""
    story = serving("steered=1 quiet_timeout=5")
    story.tells(
        """
        5      rollout deploy
                 rollout-started 2 reason=deploy workers=1
                 spawn 2/0#1
        6      ready 2/0#1
                 cut-over 2
                 rollout-committed 2 reason=deploy took=1
                 retire 1/0#1
        7      rollout signal
                 rollout-started 3 reason=signal workers=1
                 spawn 3/0#1
        8      ready 3/0#1
                 cut-over 3
                 rollout-committed 3 reason=signal took=1
                 retire 2/0#1
        9      quiet 2/0#1
                 drain 2/0#1
        """
    )
    assert story.fleet.next_deadline() == 11
    story.tells(
        """
        11     time passes
                 quiet-timed-out 1/0#1
                 drain 1/0#1
        """
    )


def test_a_crash_while_the_old_generation_quiets() -> None:
    """The new generation heals itself; the old one is not asked back."""
    serving("steered=1").tells(
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
        8      quiet 1/0#1
                 drain 1/0#1
        """
    )


def test_the_fifth_generation_kills_who_still_quiets() -> None:
    """Long conversations must not pile up either."""
    story = serving("steered=1 quiet_timeout=600")
    story.happens(2, "rollout deploy")
    story.happens(2, "ready 2/0#1")
    story.happens(3, "rollout deploy")
    story.happens(3, "ready 3/0#1")
    story.happens(4, "rollout deploy")
    story.happens(4, "ready 4/0#1")
    story.tells(
        """
        5      rollout deploy
                 rollout-started 5 reason=deploy workers=1
                 generation-crowded-out 1 limit=4
                 kill 1/0#1
                 spawn 5/0#1
        6      quiet 1/0#1
        7      exited 1/0#1 137
                 worker-exited 1/0#1 how="exited 137" status=137 expected=yes
                 generation-gone 1
        """
    )
