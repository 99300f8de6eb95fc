"""Exact retrieval metrics: what is reported, never what is trained.

`metrics` defines AP, recall@k, precision@k and MAP@R and their rule for ties, `curves`
what is behind a mean AP; `protocols` says who queries what (leave one out, or queries
against a database with junk), in the blocks of bounded memory that `similarity` makes;
`distractors` counts what no memory holds; `embedding` computes what is ranked.
"""

from keras_aploss.evaluation.curves import map_per_class
from keras_aploss.evaluation.embedding import embed
from keras_aploss.evaluation.metrics import (
    RetrievalResult,
    average_precision,
    evaluate_similarity,
)
from keras_aploss.evaluation.protocols import (
    evaluate_leave_one_out,
    evaluate_protocols,
    evaluate_query_database,
    relevant_by_label,
)
from keras_aploss.evaluation.similarity import top_k
