from .retrieval_evaluation import (
    RetrievalEvaluation as RetrievalEvaluation,
    evaluate_embeddings as evaluate_embeddings,
)
from .retrieval_tensorboard import RetrievalTensorBoard as RetrievalTensorBoard
from .throughput import Throughput as Throughput
