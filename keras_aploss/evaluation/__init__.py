"""Exact retrieval metrics: what is reported, never what is trained.

`metrics` defines AP, recall@k, precision@k and MAP@R and their rule for ties, `curves`
what is behind a mean AP; `protocols` says who queries what (leave one out, or queries
against a database with junk), in the blocks of bounded memory that `similarity` makes;
`distractors` counts what no memory holds; `embedding` computes what is ranked.
"""

from keras_aploss.evaluation.curves import map_per_class as map_per_class
from keras_aploss.evaluation.inputs import check_finite as check_finite
from keras_aploss.evaluation.metrics import (
    RetrievalResult as RetrievalResult,
    average_precision as average_precision,
    evaluate_similarity as evaluate_similarity,
)
from keras_aploss.evaluation.protocols import (
    evaluate_leave_one_out as evaluate_leave_one_out,
    evaluate_protocols as evaluate_protocols,
    evaluate_query_database as evaluate_query_database,
    relevant_by_label as relevant_by_label,
)
from keras_aploss.evaluation.similarity import top_k as top_k
from keras_aploss.evaluation.snapshot import (
    Snapshot as Snapshot,
    check_image_labels as check_image_labels,
    check_queries as check_queries,
    evaluate_embeddings as evaluate_embeddings,
)
