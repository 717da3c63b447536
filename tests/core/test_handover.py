"""One socket a generation, and the moment in which what is new goes to the new one."""

from __future__ import annotations

import pytest

from tests.core.transcript import Story, serving


@pytest.mark.parametrize("surge", ["all", "exclusive"])
def test_the_first_generation_needs_no_cut_over(surge: str) -> None:
    """Its sockets are the only ones."""
    Story().tells(
        f"""
        0      rollout start steered=1 surge={surge}
                 service-starting 1 reason=start workers=1
                 spawn 1/0#1
        1      ready 1/0#1
                 service-ready 1 took=1
        """
    )


def test_the_cut_over_is_the_commit() -> None:
    """Nobody meets the new generation before; the old worker drains when it has nothing left."""
    serving("steered=1 settle=2").tells(
        """
        5      rollout deploy
                 rollout-started 2 reason=deploy workers=1
                 spawn 2/0#1
        6      ready 2/0#1
        7      time passes
        8      time passes
                 cut-over 2
                 rollout-committed 2 reason=deploy took=3
                 retire 1/0#1
        9      quiet 1/0#1
                 drain 1/0#1
        10     exited 1/0#1 0
                 worker-exited 1/0#1 how="exited 0" status=0 expected=yes
                 generation-gone 1
        """
    )


def test_the_cut_over_waits_for_every_worker() -> None:
    """The new generation takes over as a whole, and settles as a whole."""
    story = serving("workers=2 steered=1 settle=2")
    story.tells(
        """
        5      rollout deploy
                 rollout-started 2 reason=deploy workers=2
                 spawn 2/0#1
                 spawn 2/1#1
        6      ready 2/1#1
        8      time passes
        9      ready 2/0#1
        10     time passes
        """
    )
    assert story.fleet.next_deadline() == 11
    story.tells(
        """
        11     time passes
                 cut-over 2
                 rollout-committed 2 reason=deploy took=6
                 retire 1/0#1
                 retire 1/1#1
        """
    )


def test_failure_before_the_cut_over_is_no_affair_of_users() -> None:
    """The candidate met nobody, so it drains at once and nothing has to be steered back."""
    serving("workers=2 steered=1").tells(
        """
        5      rollout deploy
                 rollout-started 2 reason=deploy workers=2
                 spawn 2/0#1
                 spawn 2/1#1
        6      ready 2/0#1
        7      exited 2/1#1 1
                 worker-exited 2/1#1 how="exited 1" status=1 expected=no
                 rollout-rolled-back 2/1#1 reason="worker 2/1#1 exited 1 before it was ready"
                 drain 2/0#1
        8      exited 2/0#1 0
                 worker-exited 2/0#1 how="exited 0" status=0 expected=yes
                 generation-gone 2
        """
    )


def test_failure_while_settling_is_no_affair_of_users() -> None:
    """The settle time ends before the cut-over."""
    serving("workers=2 steered=1 settle=3").tells(
        """
        5      rollout deploy
                 rollout-started 2 reason=deploy workers=2
                 spawn 2/0#1
                 spawn 2/1#1
        6      ready 2/0#1
        6      ready 2/1#1
        8      exited 2/1#1 139
                 worker-exited 2/1#1 how="exited 139" status=139 expected=no
                 rollout-rolled-back 2/1#1 reason="worker 2/1#1 exited 139 before it was committed"
                 drain 2/0#1
        9      time passes
        """
    )


def test_a_late_candidate_is_no_affair_of_users() -> None:
    """The first to be late ends the rollout; nobody has come to any of them."""
    serving("workers=3 steered=1 ready_timeout=10").tells(
        """
        5      rollout deploy
                 rollout-started 2 reason=deploy workers=3
                 spawn 2/0#1
                 spawn 2/1#1
                 spawn 2/2#1
        6      ready 2/2#1
        15     time passes
                 worker-late 2/0#1 how="was not ready within 10 s"
                 rollout-rolled-back 2/0#1 reason="worker 2/0#1 was not ready within 10 s"
                 drain 2/0#1
                 drain 2/1#1
                 drain 2/2#1
        """
    )


def test_a_failed_candidate_cannot_stand_in() -> None:
    """Nobody comes to it, so it need not wait until the old generation is back."""
    serving("workers=2 steered=1 backoff=4").tells(
        """
        5      exited 1/0#1 1
                 worker-exited 1/0#1 how="exited 1" status=1 expected=no
                 spawn 1/0#2
        5      exited 1/0#2 1
                 worker-exited 1/0#2 how="exited 1" status=1 expected=no
                 worker-backoff 1/0#2 delay=4 crashes=2
        6      rollout fixed
                 rollout-started 2 reason=fixed workers=2
                 spawn 2/0#1
                 spawn 2/1#1
        7      ready 2/0#1
        8      exited 2/1#1 1
                 worker-exited 2/1#1 how="exited 1" status=1 expected=no
                 rollout-rolled-back 2/1#1 reason="worker 2/1#1 exited 1 before it was ready"
                 drain 2/0#1
        9      time passes
                 spawn 1/0#3
        """
    )


def test_shared_after_steered() -> None:
    """A generation without sockets of its own accepts beside the old one, which drains at once."""
    serving("steered=1").tells(
        """
        5      rollout reload steered=0
                 rollout-started 2 reason=reload workers=1
                 spawn 2/0#1
        6      ready 2/0#1
                 rollout-committed 2 reason=reload took=1
                 drain 1/0#1
        """
    )


def test_steered_after_shared() -> None:
    """The shared sockets are those of the old generation: they are cut off, and it quiets."""
    serving("steered=0").tells(
        """
        5      rollout reload steered=1
                 rollout-started 2 reason=reload workers=1
                 spawn 2/0#1
        6      ready 2/0#1
                 cut-over 2
                 rollout-committed 2 reason=reload took=1
                 retire 1/0#1
        """
    )


def test_all_who_share_are_cut_off_together() -> None:
    """A generation that failed may stand in beside the old one; the cut-over is for both."""
    serving("workers=2 backoff=4 drain_timeout=30").tells(
        """
        1      exited 1/0#1 1
                 worker-exited 1/0#1 how="exited 1" status=1 expected=no
                 spawn 1/0#2
        2      exited 1/0#2 1
                 worker-exited 1/0#2 how="exited 1" status=1 expected=no
                 worker-backoff 1/0#2 delay=4 crashes=2
        3      rollout deploy
                 rollout-started 2 reason=deploy workers=2
                 spawn 2/0#1
                 spawn 2/1#1
        4      ready 2/0#1
        5      exited 2/1#1 1
                 worker-exited 2/1#1 how="exited 1" status=1 expected=no
                 rollout-rolled-back 2/1#1 reason="worker 2/1#1 exited 1 before it was ready"
        5.5    rollout reload steered=1 workers=2
                 rollout-started 3 reason=reload workers=2
                 spawn 3/0#1
                 spawn 3/1#1
        5.6    ready 3/0#1
        5.7    ready 3/1#1
                 cut-over 3
                 rollout-committed 3 reason=reload took=0.2
                 retire 1/1#1
                 retire 2/0#1
        """
    )


def test_batches_share() -> None:
    """With both generations serving at once, slot by slot, there is nothing to steer."""
    serving("workers=2 steered=1 surge=1 canary=10:30").tells(
        """
        5      rollout deploy
                 rollout-started 2 reason=deploy workers=2
                 spawn 2/0#1
        6      ready 2/0#1
                 drain 1/0#1
        7      exited 1/0#1 0
                 worker-exited 1/0#1 how="exited 0" status=0 expected=yes
                 batch-opened 2 slots=2
                 spawn 2/1#1
        8      ready 2/1#1
                 rollout-committed 2 reason=deploy took=3
                 drain 1/1#1
        """
    )
