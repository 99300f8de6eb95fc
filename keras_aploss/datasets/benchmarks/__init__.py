"""Public benchmarks, read from their files as they are distributed.

`names` reads one by its name; `buildings` is Oxford and Paris, classic and revisited,
and their distractors; `google_landmarks` and `classes` (SOP, CUB-200, iNaturalist) are
the others; `training_lists` has what is only trained on. `benchmark` is what they all
become: paths and indices, for the protocols of `keras_aploss.evaluation`.
"""

from keras_aploss.datasets.benchmarks.benchmark import ClassBenchmark, QueryBenchmark
from keras_aploss.datasets.benchmarks.buildings import read_distractor_paths
from keras_aploss.datasets.benchmarks.names import read_benchmark
from keras_aploss.datasets.benchmarks.training_lists import read_training_list
