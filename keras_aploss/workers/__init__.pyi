from .cluster import ray_session as ray_session
from .extraction import (
    ShardsReport as ShardsReport,
    extract_to_shards as extract_to_shards,
)
