"""Images that a command is given: by themselves, in folders, lists and shards."""


def rows_in(images):
    """The (path, label) rows of a folder, a list or shards, and files not read."""
    from keras_aploss.datasets import listed_rows
    from keras_aploss.embeddings import is_shard_folder, read_shards

    if not is_shard_folder(images):
        return listed_rows(images)
    shards = read_shards(images, ["path", "label"])
    rows = [row for s in shards for row in zip(s.paths, s.labels, strict=True)]
    return rows, []


def paths_in(given):
    """The paths of files, and of what folders, lists and shards hold, each once."""
    from keras_aploss.datasets import is_list

    paths, others = [], []
    for images in given:
        if images.is_dir() or is_list(images):
            rows, unread = rows_in(images)
            paths += [path for path, _ in rows]
            others += unread
        elif images.exists():
            paths.append(str(images))
        else:
            raise ValueError(
                "Expected image files, folders or lists. Received: "
                f"{str(images)!r}, which does not exist."
            )
    return list(dict.fromkeys(paths)), others
