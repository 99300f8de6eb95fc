"""A tiny random backbone of each family of keras-hub, for images of 32 pixels."""

import keras
from gradients import BACKEND

SIZE = 32

# Families of one image size; the number of their tokens before the patches.
TRANSFORMERS = {
    "ViT": 1, "DeiT": 2, "DINOv2": 1, "DINOv2 with registers": 3, "DINOv3": 3,
    "SigLIP": 0, "CLIP": 1, "MetaCLIP 2": 1, "Swin": 0,
}  # fmt: skip
CNNS = (
    "ResNet", "EfficientNet", "HGNetV2", "MobileNetV3", "MobileNetV5", "DenseNet",
    "VGG", "Xception", "CSPNet", "MiT",
)  # fmt: skip


def outputs(model, x):
    """Arrays. JAX compiles each operation that it runs at once: there, all together."""
    if BACKEND != "tensorflow":
        return model.predict(x, verbose=0)
    return keras.tree.map_structure(keras.ops.convert_to_numpy, model(x))


def make(family, models, **options):
    """Build the backbone; `models` is `keras_hub.models`."""
    if family in ("SigLIP", "CLIP", "MetaCLIP 2"):
        prefix = {"MetaCLIP 2": "MetaCLIP2"}.get(family, family)
        return _two_encoders(prefix, models, **options)
    name, arguments = _SETTINGS[family]
    return getattr(models, name)(**arguments | options)


def _two_encoders(prefix, models, **options):
    sizes = {
        "hidden_dim": 8, "num_layers": 1, "num_heads": 2, "intermediate_dim": 16,
    }  # fmt: skip
    image = getattr(models, f"{prefix}VisionEncoder")(
        patch_size=8, **sizes, **{"image_shape": (SIZE, SIZE, 3)} | options
    )
    text = getattr(models, f"{prefix}TextEncoder")(
        vocabulary_size=16, embedding_dim=8, max_sequence_length=4, **sizes
    )
    if prefix == "SigLIP":
        return models.SigLIPBackbone(image, text)
    return getattr(models, f"{prefix}Backbone")(image, text, projection_dim=8)


_VIT = {
    "image_shape": (SIZE, SIZE, 3), "patch_size": 8, "num_layers": 1, "num_heads": 2,
    "hidden_dim": 8,
}  # fmt: skip
_DINOV2 = {
    **_VIT, "intermediate_dim": 16, "position_embedding_shape": (48, 48),
}  # fmt: skip
_SETTINGS = {
    "ViT": ("ViTBackbone", {**_VIT, "mlp_dim": 16}),
    "DeiT": ("DeiTBackbone", {**_VIT, "intermediate_dim": 16}),
    "DINOv2": ("DINOV2Backbone", _DINOV2),
    "DINOv2 with registers": ("DINOV2Backbone", {**_DINOV2, "num_register_tokens": 2}),
    "DINOv3": (
        "DINOV3Backbone", {**_VIT, "intermediate_dim": 16, "num_register_tokens": 2},
    ),
    "Swin": (
        "SwinTransformerBackbone",
        {
            "image_shape": (SIZE, SIZE, 3), "embed_dim": 8, "depths": (2, 2),
            "num_heads": (2, 2), "window_size": 4, "patch_size": 4,
        },
    ),
    "ResNet": (
        "ResNetBackbone",
        {
            "input_conv_filters": [64], "input_conv_kernel_sizes": [7],
            "stackwise_num_filters": [64], "stackwise_num_blocks": [1],
            "stackwise_num_strides": [1], "block_type": "basic_block",
        },
    ),
    "EfficientNet": (
        "EfficientNetBackbone",
        {
            "stackwise_width_coefficients": [1.0] * 2,
            "stackwise_depth_coefficients": [1.0] * 2,
            "stackwise_kernel_sizes": [3, 3], "stackwise_num_repeats": [1, 1],
            "stackwise_input_filters": [8, 8], "stackwise_output_filters": [8, 8],
            "stackwise_expansion_ratios": [1, 4],
            "stackwise_squeeze_and_excite_ratios": [0.0, 0.25],
            "stackwise_strides": [1, 2],
            "stackwise_block_types": ["fused", "unfused"],
            "num_features": 16,
        },
    ),
    "HGNetV2": (
        "HGNetV2Backbone",
        {
            "depths": [1, 1], "embedding_size": 8, "hidden_sizes": [8, 16],
            "stem_channels": [3, 8, 8], "hidden_act": "relu",
            "use_learnable_affine_block": False,
            "stackwise_stage_filters": [(8, 8, 8, 1, 1, 3), (8, 8, 16, 1, 1, 3)],
            "apply_downsample": [False, True],
            "use_lightweight_conv_block": [False, True],
        },
    ),
    "MobileNetV3": (
        "MobileNetBackbone",
        {
            "stackwise_expansion": [[16], [16]], "stackwise_num_blocks": [1, 1],
            "stackwise_num_filters": [[8], [8]], "stackwise_kernel_size": [[3], [5]],
            "stackwise_num_strides": [[2], [1]], "stackwise_se_ratio": [[None], [0.25]],
            "stackwise_activation": [["relu"], ["hard_swish"]],
            "stackwise_padding": [[1], [2]], "output_num_filters": 16,
            "depthwise_filters": 8, "depthwise_stride": 2,
            "depthwise_residual": False, "last_layer_filter": 16,
            "squeeze_and_excite": 0.5, "input_num_filters": 8,
        },
    ),
    "MobileNetV5": (
        "MobileNetV5Backbone",
        {
            "stackwise_block_types": [["er"], ["uir"]],
            "stackwise_num_blocks": [1, 1], "stackwise_num_filters": [[8], [16]],
            "stackwise_strides": [[2], [2]], "stackwise_act_layers": [["relu"]] * 2,
            "stackwise_exp_ratios": [[2.0], [2.0]], "stackwise_se_ratios": [[0.0]] * 2,
            "stackwise_dw_kernel_sizes": [[0], [5]],
            "stackwise_dw_start_kernel_sizes": [[0], [0]],
            "stackwise_dw_end_kernel_sizes": [[0], [0]],
            "stackwise_exp_kernel_sizes": [[3], [0]],
            "stackwise_pw_kernel_sizes": [[1], [0]],
            "stackwise_num_heads": [[0], [0]], "stackwise_key_dims": [[0], [0]],
            "stackwise_value_dims": [[0], [0]], "stackwise_kv_strides": [[0], [0]],
            "stackwise_use_cpe": [[False], [False]],
            "stem_size": 8, "use_msfa": False,
        },
    ),
    "DenseNet": (
        "DenseNetBackbone", {"stackwise_num_repeats": [1, 1], "growth_rate": 4},
    ),
    "VGG": (
        "VGGBackbone",
        {"stackwise_num_repeats": [1, 1], "stackwise_num_filters": [8, 8]},
    ),
    "Xception": (
        "XceptionBackbone",
        {
            "stackwise_conv_filters": [[8, 8], [8, 16]],
            "stackwise_pooling": [True, False],
        },
    ),
    "CSPNet": (
        "CSPNetBackbone",
        {
            "stem_filters": 8, "stem_kernel_size": 3, "stem_strides": 1,
            "stackwise_depth": [1, 1], "stackwise_strides": [1, 2],
            "stackwise_num_filters": [8, 16], "block_type": "dark_block",
            "stage_type": "dark",
        },
    ),
    "MiT": (
        "MiTBackbone",
        {
            "layerwise_depths": [1, 1], "num_layers": 2, "layerwise_num_heads": [1, 2],
            "layerwise_sr_ratios": [2, 1], "max_drop_path_rate": 0.1,
            "layerwise_patch_sizes": [7, 3], "layerwise_strides": [4, 2],
            "hidden_dims": [8, 16], "image_shape": (SIZE, SIZE, 3),
        },
    ),
}  # fmt: skip
