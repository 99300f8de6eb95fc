"""The worker processes that a process of the tests has started through Ray."""

import pathlib
import time


def _parents():
    """The parent of each process of this machine, by their ids."""
    parents = {}
    for folder in pathlib.Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                status = (folder / "stat").read_text()
            except OSError:  # it has ended
                continue
            parents[int(folder.name)] = int(status.rpartition(")")[2].split()[1])
    return parents


def descendants(pid):
    """The processes that a process has started, directly or not."""
    parents = _parents()
    found = {pid}
    while more := {one for one, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


def embedding_workers(pid):
    """Those of them that embed shards."""
    found = []
    for one in descendants(pid):
        try:
            command = pathlib.Path(f"/proc/{one}/cmdline").read_bytes()
        except OSError:
            continue
        # Ray names a process after the class that it holds.
        if b"ShardEmbedder" in command:
            found.append(one)
    return found


def have_ended(pids, seconds=60):
    """Whether processes end in time."""
    deadline = time.monotonic() + seconds
    while any(pathlib.Path(f"/proc/{pid}").exists() for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True
