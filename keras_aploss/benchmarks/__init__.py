"""A model on a public benchmark: from its images to the published metrics.

    read_benchmark ─ benchmark_embeddings ─ postprocess_benchmark ─ evaluate_benchmark

Embeddings are stored in a folder, resumably, and used again. Distractors, which no
memory holds, stay in their file to the end: the ranking with them is exact (see
`evaluate_protocols`).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
