"""How long a worker may take to go, or to come: time-outs, more time, and too many leavers."""

from __future__ import annotations

from tests.core.transcript import serving


def test_drain_timeout_kills() -> None:
    """A worker that ignores the drain is killed, and the end waits for its exit."""
    story = serving("drain_timeout=30")
    story.tells(
        """
        5      stop
                 stopping drain=yes delay=0
                 drain 1/0#1
        34     time passes
        35     time passes
                 drain-timed-out 1/0#1
                 kill 1/0#1
        """
    )
    assert story.fleet.next_deadline() is None
    story.tells(
        """
        36     exited 1/0#1 137
                 worker-exited 1/0#1 how="exited 137" status=137 expected=yes
                 generation-gone 1
                 quit 0
        """
    )


def test_a_draining_worker_may_ask_for_more_time() -> None:
    """The deadline moves out, never in."""
    serving("drain_timeout=30").tells(
        """
        5      stop
                 stopping drain=yes delay=0
                 drain 1/0#1
        20     extended 1/0#1 by 60
        21     extended 1/0#1 by 1
        35     time passes
        80     time passes
                 drain-timed-out 1/0#1
                 kill 1/0#1
        """
    )


def test_a_starting_worker_may_ask_for_more_time() -> None:
    """A migration that takes long is no failure if the program says so."""
    serving("ready_timeout=10").tells(
        """
        5      rollout deploy
                 rollout-started 2 reason=deploy workers=1
                 spawn 2/0#1
        14     extended 2/0#1 by 10
        15     time passes
        24     ready 2/0#1
                 rollout-committed 2 reason=deploy took=19
                 drain 1/0#1
        """
    )


def test_only_who_has_a_deadline_may_extend_it() -> None:
    """A ready worker cannot put off its forgiveness, nor a killed one its end."""
    story = serving()
    story.happens(5, "extended 1/0#1 by 60")
    assert story.fleet.next_deadline() is None
    story.happens(6, "exited 1/0#1 1")
    story.happens(7, "ready 1/0#2")
    story.happens(8, "extended 1/0#2 by 600")
    assert story.fleet.next_deadline() == 37


def test_the_fifth_generation_crowds_out_the_oldest() -> None:
    """Long drains must not pile up: the oldest is killed, once, and the log says so."""
    story = serving("drain_timeout=600")
    for number in (2, 3, 4):
        story.happens(number, "rollout deploy")
        story.happens(number, f"ready {number}/0#1")
    story.tells(
        """
        5      rollout deploy
                 rollout-started 5 reason=deploy workers=1
                 generation-crowded-out 1 limit=4
                 kill 1/0#1
                 spawn 5/0#1
        6      ready 5/0#1
                 rollout-committed 5 reason=deploy took=1
                 drain 4/0#1
        7      rollout deploy
                 rollout-started 6 reason=deploy workers=1
                 generation-crowded-out 2 limit=4
                 kill 2/0#1
                 spawn 6/0#1
        8      exited 1/0#1 137
                 worker-exited 1/0#1 how="exited 137" status=137 expected=yes
                 generation-gone 1
        """
    )


def test_the_current_generation_is_never_crowded_out() -> None:
    """Failed candidates that are slow to go cost the oldest of them its life, not ours."""
    story = serving("workers=2 drain_timeout=600")
    for number in (2, 3, 4):
        story.happens(number, "rollout deploy")
        story.happens(number, f"ready {number}/0#1")
        story.happens(number, f"exited {number}/1#1 1")
    story.tells(
        """
        5      rollout deploy
                 rollout-started 5 reason=deploy workers=2
                 generation-crowded-out 2 limit=4
                 kill 2/0#1
                 spawn 5/0#1
                 spawn 5/1#1
        """
    )
