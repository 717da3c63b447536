"""Waits for the drain in the way that it is told, and says what it sees, a word a line."""

import asyncio
import multiprocessing
import os
import signal
import sys
import threading
import time

from overseer_py import worker

draining = worker.draining


def say(*words):
    os.write(1, f"{' '.join(map(str, words))}\n".encode())  # whole lines, whichever thread


def own(*_):
    say("own handler", "begun" if draining.begun else "not begun")


def event():
    draining.is_set()
    say("ready")
    say("waited", draining.wait())


def polls():
    draining.is_set()
    say("ready")
    while not draining.is_set():
        pass
    say("set")


def calls():
    @draining.call
    def first():
        say("called", "main" if threading.current_thread() is threading.main_thread() else "thread")

    @draining.call
    def fails():
        raise RuntimeError("a callback of the program's")

    say("ready")
    draining.wait()
    done = threading.Event()
    draining.call(done.set)  # it is time already
    say("late", done.wait(60))
    while draining._called:  # noqa: SLF001 - it may still be writing
        time.sleep(0.01)


def awaits():
    async def main():
        draining.watch()
        say("ready")
        await draining
        await draining  # and again
        say("awaited")

    asyncio.run(main())


def gives_up_and_awaits():
    async def main():
        for _ in range(1000):
            waiting = asyncio.ensure_future(draining)
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait([waiting])
        say("ready", len(draining._callbacks))  # noqa: SLF001
        await draining
        say("awaited")

    asyncio.run(main())


def handler_before():
    signal.signal(signal.SIGTERM, own)
    event()


def handler_after():
    draining.watch()
    signal.signal(signal.SIGTERM, own)
    event()


def handler_twice():
    draining.watch()
    signal.signal(signal.SIGTERM, own)
    draining.watch()
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
    event()


def handler_raises():
    def leave(*_):
        sys.exit(7)

    signal.signal(signal.SIGTERM, leave)
    event()
    time.sleep(60)


def loops_handler():
    async def main():
        stop, early, held = asyncio.Event(), threading.Event(), [1]
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        draining.linger(0)
        draining.hold(lambda: not held)

        @draining.call
        def finish():
            say("too early" if early.wait(0.3) else "in time")
            held.clear()

        say("ready")
        await stop.wait()
        early.set()
        say("loop's handler")

    asyncio.run(main())


def other_thread():
    """The main thread never asks; it is in Python now and then."""
    before = signal.getsignal(signal.SIGTERM)
    over = threading.Event()

    def wait():
        draining.is_set()
        while signal.getsignal(signal.SIGTERM) is before:
            pass  # the main thread gets to it soon
        event()
        over.set()

    threading.Thread(target=wait).start()
    while not over.wait(0.01):
        pass


def thread_before_main():
    signal.signal(signal.SIGTERM, own)
    other_thread()


def blocked():
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    called = threading.Event()

    @draining.call
    def finish():
        say("called")
        called.set()

    say("ready")
    signal.sigwait({signal.SIGTERM})
    draining.begin()
    say("waited", draining.wait())
    called.wait(60)


def lingers():
    """Nobody handles the signal, and a server's middleware is there: sys.exit() in the end."""
    draining.linger(0)
    uploads = [1]
    draining.hold(lambda: not uploads)

    @draining.call
    def finish():
        uploads.clear()
        time.sleep(0.2)  # as long as it takes to write something away
        say("called")

    say("ready")
    try:
        time.sleep(600)
    finally:
        say("cleaned up")


def impatient():
    """The second signal is not kept from the program's own handler."""
    signal.signal(signal.SIGTERM, own)
    draining.linger(600)
    draining.hold(lambda: False)
    draining.call(lambda: say("called"))
    say("ready")
    sys.stdin.readline()
    sys.exit()


def forked_child():
    """A child that has nothing to do with it ends of the signal as ever."""
    draining.watch()
    reader, writer = os.pipe()

    def work():
        os.write(writer, b"up")  # Python forgets a signal that comes while it forks
        time.sleep(600)

    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    os.read(reader, 2)
    child.terminate()
    child.join()
    say("ready")
    say("child", child.exitcode)
    draining.wait()


def forked_server():
    """A child that drains by itself, as the workers of a pre-forking server do."""
    draining.watch()
    reader, writer = os.pipe()
    if not (child := os.fork()):
        draining.watch()
        os.write(writer, b"up")
        draining.wait()
        os._exit(9)
    os.read(reader, 2)
    say("ready")
    draining.wait()
    os.kill(child, signal.SIGTERM)
    say("child", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def deadline():
    draining.watch()
    say("ready", draining.deadline, draining.left)
    draining.wait()
    before = draining.deadline - time.monotonic()
    say("in time", 0 < draining.left <= before <= 40, before > 0)


def no_deadline():
    draining.watch()
    say("ready")
    draining.wait()
    say(draining.deadline, draining.left)


def number():
    draining.watch()
    say("ready")
    say("waited", draining.wait())


globals()[sys.argv[1]]()
say("end")
