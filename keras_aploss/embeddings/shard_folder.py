"""The folder that workers fill with shards, and that goes on after a kill.

    _manifest.json     what the shards are of, and how many there are
    _images.parquet    the images, a row group for each shard
    part-000000.parquet, ...
    _skipped.csv       what could not be read, when all is done
    _lock              held by the process that has work done here

A shard that is there is done; what is missing is still to be done. So nothing is noted
while the work goes on, and workers on other machines need nothing but this folder.
"""

import contextlib
import csv
import json
import os
import shutil
from collections.abc import Sequence

from keras_aploss.embeddings.resuming import digest_of, lock, require_same_settings
from keras_aploss.embeddings.shards import (
    MANIFEST,
    import_parquet,
    is_shard_folder,
    read_about,
    read_manifest,
    shard_path,
    written_at_once,
)
from keras_aploss.images import SkippedImage

IMAGES = "_images.parquet"
SKIPPED = "_skipped.csv"
_LOCK = "_lock"


class ShardFolder:
    """A folder of shards while they are made: `with ShardFolder(...) as folder`.

    Args:
        path: the folder, made if it does not exist.
        settings: what the embeddings depend on, as JSON holds it.
        paths: N images.
        labels: the label of each.
        shard_size: images per shard.

    Attributes:
        digest: of the settings; each shard has it in its footer.
        count: the number of shards.
        written: embeddings that are there, when it was entered or `look` was called.
        skipped: files that were left out, the same.

    Raises:
        ValueError: if the folder holds something else, or shards of other images,
            another model or other settings, or another process writes there.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        settings: dict,
        paths: Sequence[str],
        labels: Sequence[str],
        *,
        shard_size: int,
    ):
        self.path = os.path.abspath(path)
        self.settings = {**settings, "shard_size": shard_size}
        self.digest = digest_of(self.settings)
        self.count = -(-len(paths) // shard_size)
        self.written, self.skipped = 0, []
        self._images = {"path": list(paths), "label": list(labels)}
        self._locked = None

    def __enter__(self):
        import_parquet()
        os.makedirs(self.path, exist_ok=True)
        if not is_shard_folder(self.path):
            self._require_free()
        self._locked = open(os.path.join(self.path, _LOCK), "ab")
        try:
            lock(self._locked, self.path)
            if is_shard_folder(self.path):
                there = read_manifest(self.path)["settings"]
                require_same_settings(self.path, there, self.settings)
            else:
                self._begin()
            self.missing = self.look()
        except BaseException:
            self._locked.close()
            raise
        return self

    def __exit__(self, *_):
        self._locked.close()  # which frees it

    def look(self) -> list[int]:
        """Count what is written, and return the numbers of the missing shards."""
        missing, self.written, self.skipped = [], 0, []
        for number in range(self.count):
            path = shard_path(self.path, number)
            about = read_about(path)
            if about is None:
                missing.append(number)  # a damaged one is written again
                continue
            if about.get("settings") != self.digest:
                raise ValueError(
                    f"Expected shards of one extraction in {self.path!r}. Received: "
                    f"{path!r}, which is of another. Delete it."
                )
            self.written += about["rows"]
            self.skipped += [SkippedImage(*row) for row in about["skipped"]]
        return missing

    def finish(self) -> None:
        """List what was left out, and take away what only the work needed."""
        write_skipped(self.path, self.skipped)
        for name in os.listdir(self.path):
            path = os.path.join(self.path, name)
            if name.startswith((".part-", "._")):
                with contextlib.suppress(OSError):
                    os.remove(path)
            elif name.startswith(".model-"):
                shutil.rmtree(path, ignore_errors=True)

    def _require_free(self):
        # Of a first try that was killed, there are names of ours.
        foreign = [n for n in os.listdir(self.path) if not n.startswith(("_", "."))]
        if foreign:
            raise ValueError(
                "Expected a new or empty folder, or one of shards. Received: "
                f"{self.path!r}, which holds {foreign[0]!r} and no {MANIFEST!r}. "
                "Choose another folder."
            )

    def _begin(self):
        arrow, parquet = import_parquet()
        columns = {
            name: arrow.array(texts, arrow.string())
            for name, texts in self._images.items()
        }
        with written_at_once(os.path.join(self.path, IMAGES)) as unfinished:
            parquet.write_table(
                arrow.table(columns),
                unfinished,
                row_group_size=self.settings["shard_size"],
            )
        manifest = {"shards": self.count, "settings": self.settings}
        with (
            written_at_once(os.path.join(self.path, MANIFEST)) as unfinished,
            open(unfinished, "w", encoding="utf-8") as file,
        ):
            json.dump(manifest, file, indent=1)


def read_images(folder: str, number: int) -> tuple[list[str], list[str]]:
    """The paths and labels of the images of a shard."""
    _, parquet = import_parquet()
    with parquet.ParquetFile(os.path.join(folder, IMAGES)) as file:
        table = file.read_row_group(number)
    return table["path"].to_pylist(), table["label"].to_pylist()


def write_skipped(folder: str | os.PathLike, skipped: Sequence[SkippedImage]) -> None:
    """Write the table of the files that were left out; without any there is none."""
    path = os.path.join(folder, SKIPPED)
    if not skipped:
        with contextlib.suppress(FileNotFoundError):
            os.remove(path)
        return
    with (
        written_at_once(path) as unfinished,
        # Names of files need not be UTF-8: their bytes are kept as they are.
        open(
            unfinished, "w", encoding="utf-8", errors="surrogateescape", newline=""
        ) as file,
    ):
        csv.writer(file).writerows([("path", "reason"), *skipped])
