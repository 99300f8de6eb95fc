"""From files to pixels: the one preprocessing of training, evaluation and serving."""

from keras_aploss.data.augmentation import Augmentation
from keras_aploss.data.decoding import MAX_PIXELS, decode_image
from keras_aploss.data.files import ImageFiles, load_image
from keras_aploss.data.original import OriginalImages, scale_image
from keras_aploss.data.resizing import resize_image
from keras_aploss.data.unreadable import SkippedImage, find_unreadable
