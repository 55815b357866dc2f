"""Ctrl-C must end a run wherever it lands: none may get lost, none may come between lines that
belong together.
"""

import os
import signal
import threading

import pytest

from bench.engine.interrupts import Interrupts


@pytest.fixture(autouse=True)
def python_handlers():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class InterruptedWhileCollected:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(100):  # room for the interpreter to deliver it here
            pass


def test_a_ctrl_c_that_lands_in_a_finaliser_is_not_lost():
    with pytest.raises(KeyboardInterrupt), Interrupts() as interrupts:
        InterruptedWhileCollected()
        interrupts.check()


def test_a_ctrl_c_waits_for_the_check():
    steps = []
    with pytest.raises(KeyboardInterrupt), Interrupts() as interrupts:
        os.kill(os.getpid(), signal.SIGINT)
        steps.append("the line after it still runs")
        interrupts.check()
        steps.append("never")
    assert len(steps) == 1


def test_a_ctrl_c_after_the_last_check_comes_at_the_end_of_the_block():
    with pytest.raises(KeyboardInterrupt), Interrupts():
        os.kill(os.getpid(), signal.SIGINT)


def test_the_first_error_wins_and_the_handlers_come_back():
    with pytest.raises(ValueError, match="disk"), Interrupts():
        os.kill(os.getpid(), signal.SIGINT)
        raise ValueError("disk")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_ignored_signal_stays_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Interrupts() as interrupts:
        os.kill(os.getpid(), signal.SIGINT)
        interrupts.check()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_the_handler_of_the_caller_is_the_one_called():
    def end(number, frame):
        raise SystemExit(number)

    signal.signal(signal.SIGTERM, end)
    with pytest.raises(SystemExit, match="15"), Interrupts() as interrupts:
        os.kill(os.getpid(), signal.SIGTERM)
        interrupts.check()


def test_in_another_thread_it_does_nothing():
    handlers = []

    def work():
        with Interrupts() as interrupts:
            interrupts.check()
            handlers.append(interrupts.handlers)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert handlers == [{}]
