"""A new generation beside the old one: committed or rolled back."""

from __future__ import annotations

from overseer_py.core.messages import Report
from tests.core.transcript import BoundedFleet, Story, read, serving


def test_first_start_serves_when_every_slot_is_ready() -> None:
    """The first generation is current at once: there is nothing to protect yet."""
    Story().tells(
        """
        0      rollout start workers=2
                 service-starting 1 reason=start workers=2
                 spawn 1/0#1
                 spawn 1/1#1
        0.5    ready 1/1#1
        0.75   ready 1/0#1
                 service-ready 1 took=0.75
        """
    )


def test_rollout_commits_when_the_new_worker_is_ready() -> None:
    """The old worker drains in the moment of the commit, no earlier."""
    serving().tells(
        """
        5      rollout deploy
                 rollout-started 2 reason=deploy workers=1
                 spawn 2/0#1
        6      ready 2/0#1
                 rollout-committed 2 reason=deploy took=1
                 drain 1/0#1
        7      exited 1/0#1 0
                 worker-exited 1/0#1 how="exited 0" status=0 expected=yes
                 generation-gone 1
        """
    )


def test_no_old_worker_drains_before_all_new_ones_are_ready() -> None:
    """With more than one worker the new generation takes over as a whole."""
    serving("workers=2").tells(
        """
        5      rollout deploy
                 rollout-started 2 reason=deploy workers=2
                 spawn 2/0#1
                 spawn 2/1#1
        6      ready 2/1#1
        7      ready 2/0#1
                 rollout-committed 2 reason=deploy took=2
                 drain 1/0#1
                 drain 1/1#1
        """
    )


def test_exit_before_ready_rolls_back() -> None:
    """The new generation goes, also what was ready of it; the old one hears nothing."""
    serving("workers=2").tells(
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


def test_exit_while_settling_rolls_back() -> None:
    """To have been ready is not enough; the settle time belongs to the trial."""
    story = serving("workers=2 settle=3")
    story.tells(
        """
        5      rollout deploy
                 rollout-started 2 reason=deploy workers=2
                 spawn 2/0#1
                 spawn 2/1#1
        6      ready 2/0#1
        6      ready 2/1#1
        8      exited 2/0#1 139
                 worker-exited 2/0#1 how="exited 139" status=139 expected=no
                 rollout-rolled-back 2/0#1 reason="worker 2/0#1 exited 139 before it was committed"
                 drain 2/1#1
        9      time passes
        """
    )
    assert story.fleet.next_deadline() == 38  # the drain's; nothing settles any more


def test_ready_timeout_rolls_back() -> None:
    """A worker that is never ready drains (it may have clients), and its exit is then no news."""
    serving("ready_timeout=10").tells(
        """
        5      rollout deploy
                 rollout-started 2 reason=deploy workers=1
                 spawn 2/0#1
        14     time passes
        15     time passes
                 worker-late 2/0#1 how="was not ready within 10 s"
                 rollout-rolled-back 2/0#1 reason="worker 2/0#1 was not ready within 10 s"
                 drain 2/0#1
        16     exited 2/0#1 0
                 worker-exited 2/0#1 how="exited 0" status=0 expected=yes
                 generation-gone 2
        """
    )


def test_all_who_are_late_drain() -> None:
    """The first to be late ends the rollout; the others may have clients as well."""
    serving("workers=3 ready_timeout=10").tells(
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


def test_ready_at_the_last_moment_counts() -> None:
    """Readiness that arrives together with the time-out is readiness."""
    serving("ready_timeout=10").tells(
        """
        5      rollout deploy
                 rollout-started 2 reason=deploy workers=1
                 spawn 2/0#1
        15     ready 2/0#1
                 rollout-committed 2 reason=deploy took=10
                 drain 1/0#1
        """
    )


def test_settle_counts_from_the_last_worker() -> None:
    """The generation settles as a whole, and nothing drains until it has."""
    story = serving("workers=2 settle=3")
    story.tells(
        """
        5      rollout deploy
                 rollout-started 2 reason=deploy workers=2
                 spawn 2/0#1
                 spawn 2/1#1
        6      ready 2/0#1
        7      ready 2/1#1
        9      time passes
        """
    )
    assert story.fleet.next_deadline() == 10
    story.tells(
        """
        10     time passes
                 rollout-committed 2 reason=deploy took=5
                 drain 1/0#1
                 drain 1/1#1
        """
    )


def test_a_smaller_generation_drains_what_has_no_successor() -> None:
    """Slots that the new configuration does not have go with the commit."""
    serving("workers=3").tells(
        """
        5      rollout reload workers=1 settle=0
                 rollout-started 2 reason=reload workers=1
                 spawn 2/0#1
        6      ready 2/0#1
                 rollout-committed 2 reason=reload took=1
                 drain 1/0#1
                 drain 1/1#1
                 drain 1/2#1
        """
    )


def test_late_news_changes_nothing() -> None:
    """A process is named by its launch, so news of a past one matches no other."""
    story = serving("settle=9")
    story.tells(
        """
        5      exited 1/0#1 1
                 worker-exited 1/0#1 how="exited 1" status=1 expected=no
                 spawn 1/0#2
        5      exited 1/0#1 1
        5      ready 1/0#1
        5      extended 1/0#1 by 600
        6      rollout deploy
                 rollout-started 2 reason=deploy workers=1
                 spawn 2/0#1
        6      ready 2/0#2
        6      exited 2/0#2 1
        6      exited 9/0#1 1
        """
    )
    assert story.fleet.next_deadline() == 65


def test_late_news_of_a_waiting_slot_changes_nothing() -> None:
    """A slot in backoff still bears the name of the dead worker, which cannot die again."""
    story = serving("backoff=4")
    story.tells(
        """
        5      exited 1/0#1 1
                 worker-exited 1/0#1 how="exited 1" status=1 expected=no
                 spawn 1/0#2
        5      exited 1/0#2 1
                 worker-exited 1/0#2 how="exited 1" status=1 expected=no
                 worker-backoff 1/0#2 delay=4 crashes=2
        6      exited 1/0#2 1
        6      ready 1/0#2
        6      extended 1/0#2 by 600
        """
    )
    assert story.fleet.next_deadline() == 9


def test_every_step_is_reported() -> None:
    """The transcripts leave out three reports, which are there all the same."""
    fleet = BoundedFleet(lambda: 0.5)
    told = ["rollout start steered=1", "ready 1/0#1", "rollout deploy", "ready 2/0#1", "stop"]
    seen = [action for what in told for action in fleet.handle(read(what), 1.0)]
    about = {r.name: (r.generation, str(r.worker)) for r in seen if isinstance(r, Report)}
    assert about["worker-ready"] == (2, "2/0#1")
    assert about["worker-quieting"] == (1, "1/0#1")
    assert about["worker-draining"] == (2, "2/0#1")
