from .answers import (
    UnavailableError as UnavailableError,
    UnreadableError as UnreadableError,
)
from .client import EmbeddingClient as EmbeddingClient
from .embed_files import extract_by_server as extract_by_server
from .graph import decode_batch as decode_batch
from .saved_model import (
    export_saved_model as export_saved_model,
    read_image_size as read_image_size,
    read_record as read_record,
)
from .server_files import (
    served_name as served_name,
    write_serving_files as write_serving_files,
)
from .warmup import warmup_files as warmup_files
