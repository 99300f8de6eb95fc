from . import (
    app as app,
    benchmarks as benchmarks,
    callbacks as callbacks,
    checkpoints as checkpoints,
    cli as cli,
    datasets as datasets,
    embeddings as embeddings,
    evaluation as evaluation,
    images as images,
    layers as layers,
    losses as losses,
    metrics as metrics,
    models as models,
    report as report,
    runs as runs,
    samplers as samplers,
    search as search,
    serving as serving,
    training as training,
    workers as workers,
)
from .app import search_app as search_app
from .benchmarks import (
    evaluate_benchmark as evaluate_benchmark,
    read_benchmark as read_benchmark,
)
from .callbacks import (
    RetrievalEvaluation as RetrievalEvaluation,
    RetrievalTensorBoard as RetrievalTensorBoard,
    Throughput as Throughput,
)
from .checkpoints import load_ap_gem as load_ap_gem
from .datasets import (
    ImageSet as ImageSet,
    image_folder as image_folder,
    image_manifest as image_manifest,
    split_classes as split_classes,
    synthetic_landmarks as synthetic_landmarks,
)
from .embeddings import (
    embed as embed,
    extract_embeddings as extract_embeddings,
    load_embeddings as load_embeddings,
    postprocess_embeddings as postprocess_embeddings,
)
from .evaluation import (
    evaluate_embeddings as evaluate_embeddings,
    evaluate_leave_one_out as evaluate_leave_one_out,
    evaluate_query_database as evaluate_query_database,
    top_k as top_k,
)
from .images import (
    Augmentation as Augmentation,
    ImageFiles as ImageFiles,
    load_image as load_image,
)
from .layers import (
    GeneralizedMeanPooling2D as GeneralizedMeanPooling2D,
    PCAWhitening as PCAWhitening,
)
from .losses import (
    APLoss as APLoss,
    TieAwareAPLoss as TieAwareAPLoss,
    TripletHardLoss as TripletHardLoss,
    TripletSemiHardLoss as TripletSemiHardLoss,
    ap_loss as ap_loss,
    quantized_average_precision as quantized_average_precision,
    tie_aware_ap_loss as tie_aware_ap_loss,
)
from .metrics import BatchAP as BatchAP, BatchRecall as BatchRecall
from .models import retrieval_model as retrieval_model
from .report import draw_rankings as draw_rankings, write_evaluation as write_evaluation
from .runs import RunSettings as RunSettings, train_run as train_run
from .samplers import ClassBalancedSampler as ClassBalancedSampler
from .search import VectorIndex as VectorIndex, index_folder as index_folder
from .serving import (
    EmbeddingClient as EmbeddingClient,
    export_saved_model as export_saved_model,
)
from .training import MultistageTrainer as MultistageTrainer
