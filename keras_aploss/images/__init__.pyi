from .arguments import require_positive as require_positive
from .augmentation import Augmentation as Augmentation
from .decoding import decode_image as decode_image
from .duplicates import find_duplicates as find_duplicates
from .files import (
    ImageFiles as ImageFiles,
    decode_contents as decode_contents,
    load_image as load_image,
)
from .hashes import hash_files as hash_files, new_digest as new_digest
from .limits import (
    MAX_PIXELS as MAX_PIXELS,
    SkippedImage as SkippedImage,
    file_reason as file_reason,
    none_readable as none_readable,
)
from .original import OriginalImages as OriginalImages, scale_image as scale_image
from .resizing import resize_image as resize_image
from .unreadable import (
    find_unreadable as find_unreadable,
    reason_to_skip as reason_to_skip,
)
