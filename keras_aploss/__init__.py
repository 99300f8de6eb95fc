"""Train image-retrieval models in Keras by optimizing Average Precision itself."""

import os

# TensorFlow's notes at its start (CPU flags, no CUDA) would bury what this package says.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from keras_aploss.callbacks import (  # noqa: E402
    RetrievalEvaluation,
    RetrievalTensorBoard,
    Snapshot,
    choose_queries,
    evaluate_embeddings,
    rank_queries,
    similarity_histogram,
)
from keras_aploss.data import (  # noqa: E402
    Augmentation,
    ImageFiles,
    SkippedImage,
    decode_image,
    find_unreadable,
    load_image,
    resize_image,
)
from keras_aploss.datasets import (  # noqa: E402
    ImageSet,
    image_folder,
    image_manifest,
    split_classes,
    synthetic_landmarks,
)
from keras_aploss.evaluation import (  # noqa: E402
    RetrievalResult,
    average_precision,
    embed,
    evaluate_leave_one_out,
    evaluate_query_database,
    evaluate_similarity,
    relevant_by_label,
    top_k,
)
from keras_aploss.export import export_saved_model  # noqa: E402
from keras_aploss.layers import (  # noqa: E402
    GeneralizedMeanPooling2D,
    PCAWhitening,
)
from keras_aploss.losses import APLoss, quantized_average_precision  # noqa: E402
from keras_aploss.models import retrieval_model, small_resnet  # noqa: E402
from keras_aploss.pictures import Ranking, draw_grid, draw_rankings  # noqa: E402
from keras_aploss.runs import RunReport, RunSettings, train_run  # noqa: E402
from keras_aploss.samplers import ClassBalancedSampler  # noqa: E402

__version__ = "0.1.0"
