from .folder import image_folder as image_folder, readable_rows as readable_rows
from .image_set import ImageSet as ImageSet, split_classes as split_classes
from .lists import is_list as is_list, listed_rows as listed_rows
from .manifest import image_manifest as image_manifest, write_manifest as write_manifest
from .synthetic import synthetic_landmarks as synthetic_landmarks
from .walk import (
    divide_by_format as divide_by_format,
    is_below as is_below,
    label_in as label_in,
    walk_images as walk_images,
)
