from .batches import (
    ReadableImages as ReadableImages,
    embedded_batches as embedded_batches,
)
from .embedding import embed as embed
from .expansion import (
    augment_database as augment_database,
    expand as expand,
    expand_queries as expand_queries,
)
from .extraction import (
    embed_at_scales as embed_at_scales,
    extract_embeddings as extract_embeddings,
    extract_files as extract_files,
)
from .fingerprint import (
    describe_images as describe_images,
    model_fingerprint as model_fingerprint,
)
from .input_size import (
    check_image_size as check_image_size,
    check_images as check_images,
    check_scales_of as check_scales_of,
    input_size as input_size,
)
from .npy_file import (
    NpyFile as NpyFile,
    begun_settings as begun_settings,
    check_npy_path as check_npy_path,
)
from .postprocessing import postprocess_embeddings as postprocess_embeddings
from .resumable import (
    EmbeddedBatch as EmbeddedBatch,
    Progress as Progress,
    write_embeddings as write_embeddings,
)
from .scales import (
    check_power as check_power,
    check_scales as check_scales,
    combine_scales as combine_scales,
    unit_length as unit_length,
)
from .shard_folder import ShardFolder as ShardFolder, ShardWriter as ShardWriter
from .shards import (
    EmbeddingShard as EmbeddingShard,
    is_shard_folder as is_shard_folder,
    read_manifest as read_manifest,
    read_shards as read_shards,
)
from .storage import load_embeddings as load_embeddings
from .whitening import (
    mean_and_kernel as mean_and_kernel,
    read_whitening as read_whitening,
    whiten_embeddings as whiten_embeddings,
    whitening_kernel as whitening_kernel,
)
