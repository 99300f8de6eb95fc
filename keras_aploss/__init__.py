"""Train image-retrieval models in Keras by optimizing Average Precision itself."""

from keras_aploss.callbacks import (
    RetrievalEvaluation,
    RetrievalTensorBoard,
    Snapshot,
    Throughput,
    choose_queries,
    evaluate_embeddings,
    rank_queries,
    similarity_histogram,
)
from keras_aploss.data import (
    Augmentation,
    ImageFiles,
    SkippedImage,
    decode_image,
    find_unreadable,
    load_image,
    resize_image,
)
from keras_aploss.datasets import (
    ImageSet,
    image_folder,
    image_manifest,
    split_classes,
    synthetic_landmarks,
)
from keras_aploss.evaluation import (
    RetrievalResult,
    average_precision,
    embed,
    evaluate_leave_one_out,
    evaluate_protocols,
    evaluate_query_database,
    evaluate_similarity,
    relevant_by_label,
    top_k,
)
from keras_aploss.export import decode_batch, export_saved_model
from keras_aploss.layers import (
    GeneralizedMeanPooling2D,
    PCAWhitening,
)
from keras_aploss.losses import (
    APLoss,
    TieAwareAPLoss,
    ap_loss,
    quantized_average_precision,
    tie_aware_ap_loss,
)
from keras_aploss.models import retrieval_model, small_resnet
from keras_aploss.pictures import (
    Ranking,
    draw_curves,
    draw_grid,
    draw_histogram,
    draw_rankings,
    draw_sprite,
    fit_image,
)
from keras_aploss.runs import (
    RunCheckpoint,
    RunReport,
    RunSettings,
    pixel_embeddings,
    train_run,
    write_evaluation,
)
from keras_aploss.samplers import ClassBalancedSampler
from keras_aploss.training import (
    MultistageTrainer,
    activation_bytes,
    choose_num_chunks,
    embed_in_chunks,
)

__version__ = "0.1.0"
__all__ = [
    "APLoss",
    "Augmentation",
    "ClassBalancedSampler",
    "GeneralizedMeanPooling2D",
    "ImageFiles",
    "ImageSet",
    "MultistageTrainer",
    "PCAWhitening",
    "Ranking",
    "RetrievalEvaluation",
    "RetrievalResult",
    "RetrievalTensorBoard",
    "RunCheckpoint",
    "RunReport",
    "RunSettings",
    "SkippedImage",
    "Snapshot",
    "Throughput",
    "TieAwareAPLoss",
    "activation_bytes",
    "ap_loss",
    "average_precision",
    "choose_num_chunks",
    "choose_queries",
    "decode_batch",
    "decode_image",
    "draw_curves",
    "draw_grid",
    "draw_histogram",
    "draw_rankings",
    "draw_sprite",
    "embed",
    "embed_in_chunks",
    "evaluate_embeddings",
    "evaluate_leave_one_out",
    "evaluate_protocols",
    "evaluate_query_database",
    "evaluate_similarity",
    "export_saved_model",
    "find_unreadable",
    "fit_image",
    "image_folder",
    "image_manifest",
    "load_image",
    "pixel_embeddings",
    "quantized_average_precision",
    "rank_queries",
    "relevant_by_label",
    "resize_image",
    "retrieval_model",
    "similarity_histogram",
    "small_resnet",
    "split_classes",
    "synthetic_landmarks",
    "tie_aware_ap_loss",
    "top_k",
    "train_run",
    "write_evaluation",
]
