"""A release that was committed and then crashes again and again, soon after."""

from __future__ import annotations

import pytest

from tests.core.transcript import Story, serving

PROBATION = "probation=30"


def released(options: str = PROBATION, how: str = "reversible") -> Story:
    """Return the story of a service with a new release, committed at 10."""
    story = serving(options)
    story.happens(10, f"rollout fetched {how}")
    size = len(story.fleet.roster.generations[2].workers)
    for slot in range(size):
        story.happens(10, f"ready 2/{slot}#1")
    for slot in range(size):
        story.happens(10, f"exited 1/{slot}#1 0")
    (current,) = story.fleet.roster.generations.values()
    assert current.number == 2
    return story


def test_a_crash_loop_in_probation_is_reported_once() -> None:
    """Three crashes in a row; it goes on, with a growing delay, until it is replaced."""
    released().tells(
        """
        12     exited 2/0#1 1
                 worker-exited 2/0#1 how="exited 1" status=1 expected=no
                 spawn 2/0#2
        13     exited 2/0#2 1
                 worker-exited 2/0#2 how="exited 1" status=1 expected=no
                 worker-backoff 2/0#2 delay=0.5 crashes=2
        13.5   time passes
                 spawn 2/0#3
        14     exited 2/0#3 1
                 worker-exited 2/0#3 how="exited 1" status=1 expected=no
                 probation-failed 2/0#3 reason="worker 2/0#3 exited 1, crash 3 in a row"
                 worker-backoff 2/0#3 delay=1 crashes=3
        15     time passes
                 spawn 2/0#4
        16     exited 2/0#4 1
                 worker-exited 2/0#4 how="exited 1" status=1 expected=no
                 worker-backoff 2/0#4 delay=2 crashes=4
        17     rollout restored
                 rollout-started 3 reason=restored workers=1
                 spawn 3/0#1
        17.5   ready 3/0#1
                 rollout-committed 3 reason=restored took=0.5
                 generation-gone 2
        """
    )


def test_it_does_not_give_up_before_the_previous_one_is_back() -> None:
    """``max_crashes`` would be spent, but help is on its way."""
    released(f"{PROBATION} max_crashes=3 backoff=1").tells(
        """
        12     exited 2/0#1 1
                 worker-exited 2/0#1 how="exited 1" status=1 expected=no
                 spawn 2/0#2
        13     exited 2/0#2 1
                 worker-exited 2/0#2 how="exited 1" status=1 expected=no
                 worker-backoff 2/0#2 delay=1 crashes=2
        14     time passes
                 spawn 2/0#3
        14     exited 2/0#3 1
                 worker-exited 2/0#3 how="exited 1" status=1 expected=no
                 probation-failed 2/0#3 reason="worker 2/0#3 exited 1, crash 3 in a row"
                 worker-backoff 2/0#3 delay=2 crashes=3
        16     time passes
                 spawn 2/0#4
        50     exited 2/0#4 1
                 worker-exited 2/0#4 how="exited 1" status=1 expected=no
                 worker-backoff 2/0#4 delay=4 crashes=4
        """
    )


def test_the_first_exit_is_enough_where_it_would_be_the_end() -> None:
    """``on_exit=exit``: there is no second crash to wait for."""
    released(f"{PROBATION} on_exit=exit").tells(
        """
        12     exited 2/0#1 42
                 worker-exited 2/0#1 how="exited 42" status=42 expected=no
                 probation-failed 2/0#1 reason="worker 2/0#1 exited 42, crash 1 in a row"
                 worker-backoff 2/0#1 delay=0.5 crashes=1
        12.5   time passes
                 spawn 2/0#2
        13     exited 2/0#2 42
                 worker-exited 2/0#2 how="exited 42" status=42 expected=no
                 worker-backoff 2/0#2 delay=1 crashes=2
        """
    )


def test_a_worker_that_is_never_ready_again_is_a_crash_loop() -> None:
    """Late three times: counted when it is killed."""
    released(f"{PROBATION} ready_timeout=2").tells(
        """
        12     exited 2/0#1 1
                 worker-exited 2/0#1 how="exited 1" status=1 expected=no
                 spawn 2/0#2
        14     time passes
                 worker-late 2/0#2 how="was not ready within 2 s"
                 kill 2/0#2
        14     exited 2/0#2 137
                 worker-exited 2/0#2 how="exited 137" status=137 expected=no
                 worker-backoff 2/0#2 delay=0.5 crashes=2
        14.5   time passes
                 spawn 2/0#3
        16.5   time passes
                 worker-late 2/0#3 how="was not ready within 2 s"
                 kill 2/0#3
        16.5   exited 2/0#3 137
                 worker-exited 2/0#3 how="exited 137" status=137 expected=no
                 probation-failed 2/0#3 reason="worker 2/0#3 exited 137, crash 3 in a row"
                 worker-backoff 2/0#3 delay=1 crashes=3
        """
    )


def test_a_crash_of_each_worker_is_no_loop() -> None:
    """They are counted for each slot: three workers may crash once each."""
    story = released(f"{PROBATION} workers=3")
    for slot in range(3):
        told = story.happens(12, f"exited 2/{slot}#1 1")
        assert told[-1] == f"spawn 2/{slot}#2"
        assert not any("probation" in line for line in told)


def test_what_was_up_for_long_is_forgiven() -> None:
    """Crashes in a row are meant, not crashes."""
    story = released("probation=600 backoff_limit=2")
    for number in range(1, 20):
        at = 10 + number * 10
        assert story.happens(at, f"exited 2/0#{number} 1")[-1] == f"spawn 2/0#{number + 1}"
        story.happens(at, f"ready 2/0#{number + 1}")
        story.happens(at + 2, "time passes")


@pytest.mark.parametrize(
    ("probation", "how", "at"),
    [(PROBATION, "reversible", 40.0), (PROBATION, "", 12.0), ("probation=0", "reversible", 12.0)],
    ids=["over", "nothing to go back to", "none"],
)
def test_otherwise_it_is_as_ever(probation: str, how: str, at: float) -> None:
    """After the probation, with nothing to go back to, or with none asked for."""
    story = released(f"{probation} max_crashes=3", how)
    story.happens(at, "exited 2/0#1 1")
    story.happens(at + 1, "exited 2/0#2 1")
    story.happens(at + 2, "time passes")
    told = story.happens(at + 3, "exited 2/0#3 1")
    assert told[1].startswith("gave-up 2/0#3 status=5 "), told
    story = released(f"{probation} on_exit=exit", how)
    assert story.happens(at, "exited 2/0#1 7")[-1] == "quit 7"


def test_the_last_crash_decides() -> None:
    """The third comes when the probation is over: not the release's fault any more."""
    story = released()
    story.happens(39, "exited 2/0#1 1")
    story.happens(39.5, "exited 2/0#2 1")
    story.happens(40, "time passes")
    told = story.happens(40, "exited 2/0#3 1")
    assert [line.split()[0] for line in told] == ["worker-exited", "worker-backoff"]


def test_the_first_generation_has_no_probation() -> None:
    """It gives up as before: nothing was committed in its place."""
    story = Story()
    story.happens(0, "rollout start reversible probation=30")
    story.happens(0, "exited 1/0#1 1")
    story.happens(1, "time passes")
    story.happens(1, "exited 1/0#2 1")
    story.happens(3, "time passes")
    assert story.happens(3, "exited 1/0#3 1")[-1] == "quit 5"


def test_a_crash_in_the_old_generation_is_not_the_release_s() -> None:
    """While the candidate is tried the old one may crash as it likes."""
    story = serving(PROBATION)
    story.happens(10, "rollout fetched reversible")
    for launch in range(1, 6):
        told = story.happens(10 + 20 * launch, f"exited 1/0#{launch} 1")
        assert not any("probation" in line for line in told)
        story.happens(10 + 20 * launch + 19, "time passes")


def test_a_request_that_waits_stays_reversible() -> None:
    """Another one may come on top of it before it can begin."""
    story = serving(PROBATION)
    story.happens(10, "rollout deploy")
    story.happens(11, "rollout fetched reversible")
    story.happens(12, "rollout signal")
    story.happens(13, "ready 2/0#1")
    story.happens(13, "exited 1/0#1 0")
    story.happens(14, "ready 3/0#1")
    current = story.fleet.roster.current
    assert current
    assert (current.number, current.probation_until) == (3, 44)


def test_one_that_fails_before_the_commit_is_rolled_back_as_ever() -> None:
    """Nobody has met it: there is nothing to restore."""
    story = serving(PROBATION)
    story.happens(10, "rollout fetched reversible")
    told = story.happens(11, "exited 2/0#1 1")
    names = [line.split()[0] for line in told]
    assert names == ["worker-exited", "rollout-rolled-back", "generation-gone"]


def test_what_replaces_a_crash_loop_takes_its_sockets() -> None:
    """Clients wait there whom nobody serves: no cut-over leads past them, the next one does."""
    story = serving(f"steered=1 {PROBATION}")
    story.happens(10, "rollout fetched reversible")
    story.happens(10, "ready 2/0#1")
    story.happens(10, "quiet 1/0#1")
    story.happens(10, "exited 1/0#1 0")
    for at, launch in ((11, 1), (12, 2), (14, 3)):
        story.happens(at, f"exited 2/0#{launch} 1")
        story.happens(at + 0.5, "time passes")
    story.tells(
        """
        17     rollout restored
                 rollout-started 3 reason=restored workers=1
                 spawn 3/0#1
        18     ready 3/0#1
                 rollout-committed 3 reason=restored took=1
                 generation-gone 2
        20     rollout again
                 rollout-started 4 reason=again workers=1
                 spawn 4/0#1
        21     ready 4/0#1
                 cut-over 4
                 rollout-committed 4 reason=again took=1
                 retire 3/0#1
        """
    )
