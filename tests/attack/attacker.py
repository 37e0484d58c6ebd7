"""Attacks and control loads, each in a process of its own, so that they take nothing from those who measure."""

import multiprocessing
import resource
import time

from cluster import cpu_seconds

SPAWN = multiprocessing.get_context("spawn")
PERIOD = 0.01  # seconds: how evenly a control load burns
READY = 20  # seconds


def _main(function, target, seconds, options, stop, pipe):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    pipe.send("ready")
    # Ends by itself, whatever becomes of the judge.
    deadline = time.monotonic() + seconds + READY
    pipe.send(function(target, lambda: not stop.is_set() and time.monotonic() < deadline, **options))


def burn(target, running, duty=1.0):
    """Uses a processor, for a share of the time."""
    while running():
        began = time.monotonic()
        while time.monotonic() - began < PERIOD * duty:
            pass
        if duty < 1:
            time.sleep(PERIOD * (1 - duty))


class Attacker:
    """Calls `function(target, running, **options)` in another process until `stop`, at most for so many seconds."""

    def __init__(self, function, target, seconds=60.0, **options):
        self.name, self.stopped = function.__name__, SPAWN.Event()
        self.pipe, theirs = SPAWN.Pipe()
        arguments = (function, target, seconds, options, self.stopped, theirs)
        self.process = SPAWN.Process(target=_main, args=arguments, daemon=True)
        self.process.start()
        theirs.close()
        if not self.pipe.poll(READY):
            self.process.kill()
            raise TimeoutError(f"{self.name} has not begun")
        self.pipe.recv()

    def cpu(self):
        return cpu_seconds(self.process.pid)

    def stop(self, patience=10):
        """What the attack counted. Its failure is raised here."""
        self.stopped.set()
        try:
            if not self.pipe.poll(patience):
                raise TimeoutError(f"{self.name} does not end")
            return self.pipe.recv()
        except EOFError:
            raise RuntimeError(f"{self.name} failed: see its traceback above") from None
        finally:
            self.process.join(1)
            self.process.kill()
            self.process.join()
