"""The processes that a test has started: `conftest` ends them with it."""

STARTED = []


def started(process):
    """Note a `subprocess.Popen`, and return it."""
    STARTED.append(process)
    return process


def end_all():
    """Kill those that still run, and forget all."""
    for process in STARTED:
        if process.poll() is None:
            process.kill()
            process.wait()
    STARTED.clear()
