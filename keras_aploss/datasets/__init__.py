"""Labelled sets of images: the built-in landmarks, folders and manifests.

The problem: a retrieval model is judged on classes that it has never seen. Splitting
the images of each class, as classification does, measures memory; here the *classes* of
the training and the test set are disjoint. In the test set every image is in turn the
query and all the others are the database; those of its class are relevant.

`synthetic_landmarks`, the built-in data set, needs no download and no licence and takes
seconds. On its test set raw pixels and colour histograms rank poorly (exact mAP under
0.2), while a small network trained on the other landmarks finds the same building again
from another side, by night, behind a tree.

`image_folder` and `image_manifest` read a user's own images, from a folder per class or
a CSV file; unusable files are left out and listed. `write_manifest` writes such a CSV
file, `split_classes` holds out classes for the test.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
