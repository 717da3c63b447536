"""How many workers a rollout may add at once: slot by slot, batch by batch."""

from __future__ import annotations

from tests.core.transcript import serving


def test_a_batch_drains_only_its_own_slots() -> None:
    """Slot by slot: the old worker goes when the new one is ready, then comes the next."""
    serving("workers=2 surge=1").tells(
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
        9      exited 1/1#1 0
                 worker-exited 1/1#1 how="exited 0" status=0 expected=yes
                 generation-gone 1
        """
    )


def test_a_batch_settles_before_its_old_workers_drain() -> None:
    """Every batch has a settle time of its own."""
    serving("workers=2 surge=1 settle=2").tells(
        """
        5      rollout deploy
                 rollout-started 2 reason=deploy workers=2
                 spawn 2/0#1
        6      ready 2/0#1
        7      time passes
        8      time passes
                 drain 1/0#1
        9      exited 1/0#1 0
                 worker-exited 1/0#1 how="exited 0" status=0 expected=yes
                 batch-opened 2 slots=2
                 spawn 2/1#1
        10     ready 2/1#1
        11     time passes
        12     time passes
                 rollout-committed 2 reason=deploy took=7
                 drain 1/1#1
        """
    )


def test_a_slow_drain_holds_back_the_next_batch() -> None:
    """What drains still takes memory: the surge counts it."""
    serving("workers=4 surge=2 drain_timeout=30").tells(
        """
        5      rollout deploy
                 rollout-started 2 reason=deploy workers=4
                 spawn 2/0#1
                 spawn 2/1#1
        6      ready 2/0#1
        6      ready 2/1#1
                 drain 1/0#1
                 drain 1/1#1
        20     time passes
        36     time passes
                 drain-timed-out 1/0#1
                 kill 1/0#1
                 drain-timed-out 1/1#1
                 kill 1/1#1
        36     exited 1/0#1 137
                 worker-exited 1/0#1 how="exited 137" status=137 expected=yes
                 batch-opened 2 slots=3
                 spawn 2/2#1
        """
    )


def test_failure_in_the_second_batch_gives_the_slots_back() -> None:
    """What was ready of the failed one serves on until the old generation is back there."""
    serving("workers=2 surge=1").tells(
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
        8      exited 2/1#1 1
                 worker-exited 2/1#1 how="exited 1" status=1 expected=no
                 rollout-rolled-back 2/1#1 reason="worker 2/1#1 exited 1 before it was ready"
                 spawn 1/0#2
        9      ready 1/0#2
                 drain 2/0#1
        10     exited 2/0#1 0
                 worker-exited 2/0#1 how="exited 0" status=0 expected=yes
                 generation-gone 2
        """
    )


def test_slots_are_given_back_as_they_were_taken() -> None:
    """No more at a time than the surge: the way back must not need more memory than the way out."""
    serving("workers=3 surge=1").tells(
        """
        5      rollout deploy
                 rollout-started 2 reason=deploy workers=3
                 spawn 2/0#1
        6      ready 2/0#1
                 drain 1/0#1
        7      exited 1/0#1 0
                 worker-exited 1/0#1 how="exited 0" status=0 expected=yes
                 batch-opened 2 slots=2
                 spawn 2/1#1
        8      ready 2/1#1
                 drain 1/1#1
        9      exited 1/1#1 0
                 worker-exited 1/1#1 how="exited 0" status=0 expected=yes
                 batch-opened 2 slots=3
                 spawn 2/2#1
        10     exited 2/2#1 1
                 worker-exited 2/2#1 how="exited 1" status=1 expected=no
                 rollout-rolled-back 2/2#1 reason="worker 2/2#1 exited 1 before it was ready"
                 spawn 1/0#2
        11     ready 1/0#2
                 drain 2/0#1
        12     exited 2/0#1 0
                 worker-exited 2/0#1 how="exited 0" status=0 expected=yes
                 spawn 1/1#2
        13     ready 1/1#2
                 drain 2/1#1
        14     exited 2/1#1 0
                 worker-exited 2/1#1 how="exited 0" status=0 expected=yes
                 generation-gone 2
        """
    )


def test_a_slot_without_a_stand_in_does_not_wait() -> None:
    """While others are given back one by one, one in which nobody serves is filled at once."""
    serving("workers=3 surge=1").tells(
        """
        5      rollout deploy
                 rollout-started 2 reason=deploy workers=3
                 spawn 2/0#1
        6      ready 2/0#1
                 drain 1/0#1
        7      exited 1/0#1 0
                 worker-exited 1/0#1 how="exited 0" status=0 expected=yes
                 batch-opened 2 slots=2
                 spawn 2/1#1
        8      ready 2/1#1
                 drain 1/1#1
        9      exited 1/1#1 0
                 worker-exited 1/1#1 how="exited 0" status=0 expected=yes
                 batch-opened 2 slots=3
                 spawn 2/2#1
        10     exited 2/2#1 1
                 worker-exited 2/2#1 how="exited 1" status=1 expected=no
                 rollout-rolled-back 2/2#1 reason="worker 2/2#1 exited 1 before it was ready"
                 spawn 1/0#2
        11     exited 2/1#1 9
                 worker-exited 2/1#1 how="exited 9" status=9 expected=yes
                 spawn 1/1#2
        12     ready 1/1#2
        13     ready 1/0#2
                 drain 2/0#1
        """
    )


def test_failure_while_the_first_batch_still_drains() -> None:
    """The slot is filled again only when its draining worker has left it."""
    serving("workers=3 surge=2").tells(
        """
        5      rollout deploy
                 rollout-started 2 reason=deploy workers=3
                 spawn 2/0#1
                 spawn 2/1#1
        6      ready 2/0#1
        6      ready 2/1#1
                 drain 1/0#1
                 drain 1/1#1
        7      exited 1/1#1 0
                 worker-exited 1/1#1 how="exited 0" status=0 expected=yes
                 batch-opened 2 slots=3
                 spawn 2/2#1
        8      exited 2/2#1 1
                 worker-exited 2/2#1 how="exited 1" status=1 expected=no
                 rollout-rolled-back 2/2#1 reason="worker 2/2#1 exited 1 before it was ready"
                 spawn 1/1#2
        9      exited 1/0#1 0
                 worker-exited 1/0#1 how="exited 0" status=0 expected=yes
                 spawn 1/0#2
        10     ready 1/1#2
                 drain 2/1#1
        11     ready 1/0#2
                 drain 2/0#1
        """
    )


def test_the_stand_in_may_crash_too() -> None:
    """A failed candidate's worker that stands in is not respawned; its slot's owner is."""
    serving("workers=2 surge=1").tells(
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
        8      exited 2/1#1 1
                 worker-exited 2/1#1 how="exited 1" status=1 expected=no
                 rollout-rolled-back 2/1#1 reason="worker 2/1#1 exited 1 before it was ready"
                 spawn 1/0#2
        9      exited 2/0#1 1
                 worker-exited 2/0#1 how="exited 1" status=1 expected=yes
                 generation-gone 2
        10     exited 1/0#2 1
                 worker-exited 1/0#2 how="exited 1" status=1 expected=no
                 worker-backoff 1/0#2 delay=0.5 crashes=1
        """
    )


def test_the_stand_in_outlives_crashes_of_the_owner() -> None:
    """As long as the old generation cannot come back, somebody serves."""
    serving("workers=2 surge=1").tells(
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
        8      exited 2/1#1 1
                 worker-exited 2/1#1 how="exited 1" status=1 expected=no
                 rollout-rolled-back 2/1#1 reason="worker 2/1#1 exited 1 before it was ready"
                 spawn 1/0#2
        9      exited 1/0#2 1
                 worker-exited 1/0#2 how="exited 1" status=1 expected=no
                 worker-backoff 1/0#2 delay=0.5 crashes=1
        9.5    time passes
                 spawn 1/0#3
        10     ready 1/0#3
                 drain 2/0#1
        """
    )


def test_batches_get_through_when_the_new_generation_is_smaller() -> None:
    """Old workers without a successor are no reason to wait."""
    serving("workers=3").tells(
        """
        5      rollout reload workers=2 surge=1
                 rollout-started 2 reason=reload workers=2
                 spawn 2/0#1
        6      ready 2/0#1
                 drain 1/0#1
        7      exited 1/0#1 0
                 worker-exited 1/0#1 how="exited 0" status=0 expected=yes
                 batch-opened 2 slots=2
                 spawn 2/1#1
        8      ready 2/1#1
                 rollout-committed 2 reason=reload took=3
                 drain 1/1#1
                 drain 1/2#1
        """
    )


def test_batches_get_through_when_the_new_generation_is_bigger() -> None:
    """New slots are filled in batches as well."""
    serving("workers=1").tells(
        """
        5      rollout reload workers=3 surge=1
                 rollout-started 2 reason=reload workers=3
                 spawn 2/0#1
        6      ready 2/0#1
                 batch-opened 2 slots=2
                 drain 1/0#1
                 spawn 2/1#1
        7      exited 1/0#1 0
                 worker-exited 1/0#1 how="exited 0" status=0 expected=yes
        8      ready 2/1#1
                 batch-opened 2 slots=3
                 spawn 2/2#1
        9      ready 2/2#1
                 rollout-committed 2 reason=reload took=4
                 generation-gone 1
        """
    )
