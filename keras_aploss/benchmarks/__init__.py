"""A model on a public benchmark: from its images to the published metrics.

    read_benchmark ─ benchmark_embeddings ─ postprocess_benchmark ─ evaluate_benchmark

Embeddings are stored in a folder, resumably, and used again. Distractors, too many for
the memory, stay in their file to the end: the ranking with them is exact (see
`evaluate_protocols`).

Where to look:

* `benchmark`: the two kinds, queries that rank a database and classes of images.
* `read`: a benchmark by its name; `oxford_paris`, `google_landmarks` and
  `class_benchmarks` say which files they read and where these may lie.
* `sources`: the names, and the addresses of the files.
* `training_lists`: published lists of images to train on.
* `evaluate`: embeddings of the images, and their metrics.
* `postprocessing`: whitening, augmentation and expansion of the embeddings.
* `files`, `ground_truth`: files found and read, pickles among them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
