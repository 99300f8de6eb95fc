from .retrieval_evaluation import RetrievalEvaluation as RetrievalEvaluation
from .retrieval_tensorboard import RetrievalTensorBoard as RetrievalTensorBoard
from .throughput import Throughput as Throughput
