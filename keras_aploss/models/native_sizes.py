"""The sides of the images that pretrained networks were trained with."""

from keras_aploss.models.efficientnet_lite import VERSIONS

# The classes of `keras.applications` that were not trained with 224 x 224.
_SIZES = {
    **{"EfficientNetB1": 240, "EfficientNetB2": 260, "EfficientNetB3": 300},
    **{"EfficientNetB4": 380, "EfficientNetB5": 456, "EfficientNetB6": 528},
    **{"EfficientNetB7": 600, "EfficientNetV2B1": 240, "EfficientNetV2B2": 260},
    **{"EfficientNetV2B3": 300, "EfficientNetV2S": 384, "EfficientNetV2M": 480},
    **{"EfficientNetV2L": 480, "InceptionV3": 299, "InceptionResNetV2": 299},
    **{"NASNetLarge": 331, "Xception": 299},
}


def native_image_size(backbone: str) -> int:
    """The side of the images that the pretrained weights of a backbone were trained on.

    Args:
        backbone: name of an EfficientNet-Lite or of a class of `keras.applications`;
            224, which most of them were trained with, for other names.

    Example:
    >>> from keras_aploss.models import native_image_size
    >>> native_image_size("ResNet50"), native_image_size("EfficientNetV2S")
    (224, 384)
    """
    if backbone in VERSIONS:
        return VERSIONS[backbone][2]
    return _SIZES.get(backbone, 224)
