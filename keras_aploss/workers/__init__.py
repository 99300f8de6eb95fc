"""More images than one process, or one machine, embeds in time: workers on Ray.

`extraction` divides the images into shards and hands them to `worker`s, each of which
holds the model; `cluster` decides how many of them there are and what each gets. The
folder that they write to is `embeddings.ShardFolder`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
