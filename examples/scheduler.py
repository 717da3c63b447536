"""Jobs on a schedule, in one worker of the service: not in each, and not twice during a restart.

    pip install apscheduler
    overseer run --workers 4 -- python3 examples/scheduler.py

Every worker of the service waits for the lease; whoever has it runs the jobs.  A worker that is to
end lets the job in progress finish and gives the lease up; the next one goes on.  One that dies
loses it at once.
"""

from __future__ import annotations

import os
import time

from apscheduler.schedulers.background import BackgroundScheduler

from overseer_py import worker


def report() -> None:
    """Be the job: something that must not be done twice."""
    print(f"{time.strftime('%X')} reporting, in worker {worker.slot}", flush=True)


def main() -> None:
    """Run the jobs while it is this worker's turn."""
    seconds = float(os.environ.get("EVERY", "5"))
    lease = worker.lease("scheduler")
    while not worker.draining.is_set():
        if not lease.acquire(timeout=0.5):
            continue
        scheduler = BackgroundScheduler()
        scheduler.add_job(report, "interval", seconds=seconds)
        scheduler.start()
        worker.draining.wait()
        scheduler.shutdown(wait=True)  # before the lease is given up: nothing runs twice
        lease.release()


if __name__ == "__main__":
    main()
