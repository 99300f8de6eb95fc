from .folder import (
    divide_by_format as divide_by_format,
    image_folder as image_folder,
    is_image_name as is_image_name,
    label_in as label_in,
    readable_rows as readable_rows,
    walk_images as walk_images,
)
from .image_set import ImageSet as ImageSet, split_classes as split_classes
from .lists import is_list as is_list, listed_rows as listed_rows
from .manifest import image_manifest as image_manifest, write_manifest as write_manifest
from .synthetic import synthetic_landmarks as synthetic_landmarks
