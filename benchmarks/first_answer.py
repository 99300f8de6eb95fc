"""From a clean clone to the first ranked answer over one's own photos: how long?

What the third command of the README does, in a folder for temporary files, on a clone
of what is committed here and on copies of photos: a new environment, the installation,
an index without `--model`, the page, an upload and its ranking by HTTP. Needs Python
and Git alone; pip takes the packages from where it is told to.

    python benchmarks/first_answer.py photos/ --count 1000 --no-cache

Printed are wall and CPU time of each part, of all its processes. On a machine that does
other work, too, the second tells more: on two cores, wall time is at least half of it.
"""

import argparse
import json
import os
import pathlib
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).parents[1]
ENDINGS = {".jpg", ".jpeg", ".png"}


class Clock:
    """Prints how long each part took, in this process and those that it started."""

    def __init__(self):
        self.total, self.last = (0.0, 0.0), self.now()

    @staticmethod
    def now():
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, -1)]
        return time.perf_counter(), sum(one.ru_utime + one.ru_stime for one in used)

    def part(self, name):
        now = self.now()
        took = [b - a for a, b in zip(self.last, now, strict=True)]
        self.total = [a + b for a, b in zip(self.total, took, strict=True)]
        self.last = now
        self.line(name, took)

    def line(self, name, took):
        print(f"{name:32} {took[0]:7.1f} s {took[1]:7.1f} s", flush=True)


def copy_photos(source, folder, count):
    """Copy photos, drawn at random, with the sub-folders that they lie in."""
    found = [path for path in source.rglob("*") if path.suffix.lower() in ENDINGS]
    chosen = random.Random(0).sample(sorted(found), min(count, len(found)))
    for path in chosen:
        target = folder / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    return len(chosen)


def call(url, body):
    """Send bytes; return the JSON of the answer."""
    request = urllib.request.Request(url, body, method="POST")
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def first_answer(url, photo):
    """The ranking of an uploaded photo: what the page asks for, and gets."""
    query = call(f"{url}embed", photo.read_bytes())["query"]
    return call(f"{url}search", json.dumps({"query": query}).encode())["results"]


def measure(folder, photos, repository, python, pip):
    """Do all of it in an empty folder, and print how long each part took."""
    clock, clone, work = Clock(), folder / "clone", folder / "elsewhere"
    work.mkdir()
    environment = dict(os.environ)
    environment.pop("PYTHONPATH", None)

    def run(*command, where=clone):
        subprocess.run(
            [str(part) for part in command], cwd=where, env=environment, check=True
        )

    run(
        "git",
        "clone",
        "--quiet",
        "--depth",
        1,
        f"file://{repository}",
        clone,
        where=work,
    )
    clock.part("git clone (of this disk)")
    run(python, "-m", "venv", ".venv")
    clock.part("python3 -m venv")
    binaries = clone / ".venv" / "bin"
    run(binaries / "pip", "install", "--quiet", *pip, ".[search,app,pretrained]")
    clock.part("pip install")
    program = binaries / "keras-aploss"
    run(program, "index", photos)
    clock.part("keras-aploss index")
    app = subprocess.Popen(
        [str(program), "app", "--port", "0"],
        cwd=clone, env=environment, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        url = next(line.strip() for line in app.stdout if line.startswith("http"))
        photo = next(path for path in sorted(photos.rglob("*")) if path.is_file())
        results = first_answer(url, photo)
    finally:
        app.terminate()
        app.wait(60)
    clock.part("keras-aploss app, first answer")
    clock.line("in all", clock.total)
    print(f"query: {photo.relative_to(photos)}")
    for result in results[:5]:
        print(f"  {result['similarity']:.3f}  {result['name']}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=pathlib.Path, help="a folder of photos")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--repository", type=pathlib.Path, default=ROOT)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--no-cache", action="store_true", help="download all packages")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="first_answer_") as temporary:
        copies = pathlib.Path(temporary, "photos")
        number = copy_photos(arguments.photos, copies, arguments.count)
        print(f"{number:,} photos, {os.cpu_count()} cores{'':13} wall       CPU")
        measure(
            pathlib.Path(temporary),
            copies,
            arguments.repository.resolve(),
            arguments.python,
            ["--no-cache-dir"] if arguments.no_cache else [],
        )
