"""A model on a public benchmark: from its images to the published metrics.

    read_benchmark ─ benchmark_embeddings ─ postprocess_benchmark ─ evaluate_benchmark

Embeddings are stored in a folder, resumably, and used again. Distractors, which no
memory holds, stay in their file to the end: the ranking with them is exact (see
`evaluate_protocols`).
"""

from keras_aploss.benchmarks.extraction import (
    benchmark_embeddings,
    distractor_embeddings,
)
from keras_aploss.benchmarks.measuring import evaluate_benchmark
from keras_aploss.benchmarks.postprocessing import (
    postprocess_benchmark,
    read_whitening,
)
