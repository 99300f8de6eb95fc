from .agreement import require_agreement as require_agreement
from .folder import IndexReport as IndexReport, index_folder as index_folder
from .inputs import index_exists as index_exists
from .memory import key_of as key_of
from .milvus import MAX_RESULTS as MAX_RESULTS
from .shards import index_shards as index_shards
from .vector_index import IndexedImage as IndexedImage, VectorIndex as VectorIndex
