"""Exact retrieval metrics and nearest neighbours: for reports, not for training.

`metrics` defines AP, recall@k, precision@k and MAP@R and how they count ties; `curves`
the precision-recall curve and the mAP of each class. `protocols` measures leave-one-out
and query-against-database retrieval, with junk, in blocks of bounded memory, which
`similarity` makes; `distractors` the same with a database that is read from a file.
`nearest` finds the most similar images; `snapshot` evaluates embeddings with labels.
"""

from keras_aploss.evaluation.curves import map_per_class as map_per_class
from keras_aploss.evaluation.inputs import (
    check_embeddings as check_embeddings,
    check_finite as check_finite,
    check_unit_length as check_unit_length,
)
from keras_aploss.evaluation.metrics import (
    RetrievalResult as RetrievalResult,
    average_precision as average_precision,
    evaluate_similarity as evaluate_similarity,
)
from keras_aploss.evaluation.nearest import (
    nearest_in_blocks as nearest_in_blocks,
    top_k as top_k,
    top_of_row as top_of_row,
)
from keras_aploss.evaluation.protocols import (
    evaluate_leave_one_out as evaluate_leave_one_out,
    evaluate_protocols as evaluate_protocols,
    evaluate_query_database as evaluate_query_database,
    relevant_by_label as relevant_by_label,
)
from keras_aploss.evaluation.snapshot import (
    Snapshot as Snapshot,
    check_image_labels as check_image_labels,
    check_queries as check_queries,
    evaluate_embeddings as evaluate_embeddings,
)
