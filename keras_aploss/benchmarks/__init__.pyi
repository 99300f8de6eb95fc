from .benchmark import (
    ClassBenchmark as ClassBenchmark,
    QueryBenchmark as QueryBenchmark,
)
from .evaluate import (
    benchmark_embeddings as benchmark_embeddings,
    distractor_embeddings as distractor_embeddings,
    evaluate_benchmark as evaluate_benchmark,
)
from .oxford_paris import read_distractor_paths as read_distractor_paths
from .postprocessing import postprocess_benchmark as postprocess_benchmark
from .read import read_benchmark as read_benchmark
from .sources import (
    BENCHMARKS as BENCHMARKS,
    CLASS_URLS as CLASS_URLS,
    TRAINING_LISTS as TRAINING_LISTS,
)
from .training_lists import read_training_list as read_training_list
