"""A training run and its folder: from a data set to an exported model.

A run folder holds everything about a run: `settings.json`, `split.csv` (the images that
it is trained and tested on, unless they are drawn), `history.csv`,
`skipped.csv` (files left out, and the reason), `model.keras` (the result: the model of
the last epoch, whitened if the settings say so), `last.keras` (with the state of the
optimizer), `best.keras` (of the epoch with the best mAP; chosen on the test images, so
its figures flatter), `before.npy` (the embeddings of the untrained model),
`tensorboard/` and `evaluation/`, whose `index.html` shows all of it.

`last.keras` is replaced in one step after each epoch, optimizer included, and every
batch is a function of (seed, epoch, step): a run that was killed is resumed from it and
ends with the weights of an unbroken run.

One job at a time trains in a folder. Reading it meanwhile is allowed: what a job writes
is whole or not there.

`train_run` makes one from `RunSettings`; `open_model` opens the model of a run folder
or of a file, `read_evaluation_set` reads images to evaluate it on, and `export_version`
exports it with model card and serving files.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
