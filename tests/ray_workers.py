"""The worker processes that a process of the tests has started through Ray."""

import pathlib
import time


def _parents():
    """The parent of each process of this machine that runs, by their ids."""
    parents = {}
    for folder in pathlib.Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                status = (folder / "stat").read_text()
            except OSError:  # it has ended
                continue
            state, parent = status.rpartition(")")[2].split()[:2]
            # One that was killed is there, as "Z", until somebody asks how it ended.
            if state != "Z":
                parents[int(folder.name)] = int(parent)
    return parents


def _descendants(pid):
    """The processes that a process has started, directly or not."""
    parents = _parents()
    found = {pid}
    while more := {one for one, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


def embedding_workers(pid):
    """Those of them that embed shards."""
    found = []
    for one in _descendants(pid):
        try:
            command = pathlib.Path(f"/proc/{one}/cmdline").read_bytes()
        except OSError:
            continue
        # Ray names a process after the class that it holds.
        if b"ShardEmbedder" in command:
            found.append(one)
    return found


def still_run(pids, seconds=60):
    """The commands of those processes that have not ended in time."""
    deadline = time.monotonic() + seconds
    while left := _parents().keys() & set(pids):
        if time.monotonic() > deadline:
            return [pathlib.Path(f"/proc/{pid}/cmdline").read_bytes() for pid in left]
        time.sleep(0.2)
    return []
