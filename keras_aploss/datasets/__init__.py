"""Labelled sets of images: the embedded synthetic landmarks, folders and manifests.

The problem: a retrieval model is judged on classes that it has never seen. Splitting
the images of each class, as classification does, measures memory; here the *classes* of
the training and the test set are disjoint. In the test set every image is in turn the
query and all the others are the database; those of its class are relevant.

`synthetic_landmarks` needs no download and no licence and takes seconds. On its test
set raw pixels and colour histograms rank poorly (exact mAP under 0.2), while a small
network trained on the other landmarks finds the same building again from elsewhere, by
night, behind a tree. `image_folder` and `image_manifest` read one's own images, tell
which files are unusable and go on without them; `split_classes` sets classes aside.
`read_benchmark` reads the public benchmarks, and `write_manifest` writes what
`image_manifest` reads.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
