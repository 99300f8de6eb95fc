"""More images than one process, or one machine, embeds in time: workers on Ray.

`extraction` divides the images into shards and hands them to `worker`s, each of which
holds the model; `cluster` decides how many of them there are and what each gets;
`model_file` brings the model to them. What they write is in `embeddings.shards`.
"""

from keras_aploss.distributed.extraction import ShardsReport, extract_to_shards
