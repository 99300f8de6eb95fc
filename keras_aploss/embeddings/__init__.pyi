from .embedding import embed as embed
from .expansion import (
    augment_database as augment_database,
    expand as expand,
    expand_queries as expand_queries,
)
from .extraction import (
    Progress as Progress,
    embed_at_scales as embed_at_scales,
    extract_embeddings as extract_embeddings,
)
from .fingerprint import model_fingerprint as model_fingerprint
from .postprocessing import postprocess_embeddings as postprocess_embeddings
from .resuming import (
    EmbeddingsFile as EmbeddingsFile,
    check_free as check_free,
    describe_images as describe_images,
    digest_of as digest_of,
    is_begun as is_begun,
    require_room as require_room,
)
from .scales import (
    check_power as check_power,
    check_scales as check_scales,
    combine_scales as combine_scales,
    unit_length as unit_length,
)
from .shard_folder import (
    SKIPPED as SKIPPED,
    ShardFolder as ShardFolder,
    read_images as read_images,
    write_skipped as write_skipped,
)
from .shards import (
    MANIFEST as MANIFEST,
    EmbeddingShard as EmbeddingShard,
    import_parquet as import_parquet,
    is_shard_folder as is_shard_folder,
    read_about as read_about,
    read_manifest as read_manifest,
    read_shard as read_shard,
    read_shards as read_shards,
    shard_path as shard_path,
    whole_shards as whole_shards,
    write_shard as write_shard,
)
from .storage import load_embeddings as load_embeddings
from .whitening import (
    mean_and_kernel as mean_and_kernel,
    read_whitening as read_whitening,
    whiten_embeddings as whiten_embeddings,
    whitening_kernel as whitening_kernel,
)
