"""The published networks of the paper's authors as Keras models.

    images / 255, standardized ─ ResNet ─ GeM ─ projection ─ L2 [─ PCA whitening ─ L2]

The authors publish PyTorch checkpoints: a dictionary with the weights, the arguments
that built the network, the colours that it expects, and for each collection of images
a PCA learnt on it. Their ResNet is the one with the stride on the 3 x 3 convolutions,
symmetric padding and an epsilon of 1e-5; `keras_hub.models.ResNetBackbone` is the same.
Only its plain Keras layers are kept, so a saved model needs neither package.

Dimension key: ``B`` batch, ``H, W`` height and width of the images, ``C`` channels of
the feature map, ``D`` units of the embedding, ``K`` components of a PCA.

References: Revaud, Almazán, Rezende, de Souza, "Learning with Average Precision:
Training Image Retrieval with a Listwise Loss", ICCV 2019; the authors' code, repository
naver/deep-image-retrieval.
"""

import os
import re

import keras
from keras import layers

from keras_aploss.checkpoints.contents import (
    CHANNELS,
    check_exponent,
    choose_pca,
    find_weights,
    read_colours,
    read_options,
    read_pca,
)
from keras_aploss.layers import GeneralizedMeanPooling2D, PCAWhitening
from keras_aploss.models import retrieval_model
from keras_aploss.torch_files import (
    RefusedError,
    assign_weights,
    batch_norm_variables,
    read_torch_file,
)

BLOCKS = {
    "resnet18_rmac": ("basic_block", [2, 2, 2, 2]),
    "resnet50_rmac": ("bottleneck_block", [3, 4, 6, 3]),
    "resnet101_rmac": ("bottleneck_block", [3, 4, 23, 3]),
    "resnet152_rmac": ("bottleneck_block", [3, 8, 36, 3]),
}


def load_ap_gem(
    path: str | os.PathLike,
    *,
    whitening: str | bool = True,
    whitening_power: float = 0.25,
    whitening_units: int | None = None,
    freeze_batch_norm: bool = True,
    name: str = "ap_gem",
) -> keras.Model:
    """Load a checkpoint that the paper's authors have published, or one like it.

    The network is that of the file: ResNet-18, 50, 101 or 152, GeM with its learnt
    exponent, projection, L2; then whitening, x ↦ (x - mean) C / variance^power, and L2.
    The authors test it on images of their original size, with the PCA that they call
    "Landmarks_clean" and a power of 0.25. The file is read without PyTorch, and nothing
    that it names is imported or run. The network needs keras-hub:
    `pip install "keras_aploss[hub]"`.

    Args:
        path: a file of `torch.save`, such as `Resnet-101-AP-GeM.pt`.
        whitening: name of the PCA in the file, True for the only one, or False for the
            embeddings that the network was trained with.
        whitening_power: exponent of the variances, in [0, 1]. A PCA that was learnt
            without whitening is a plain rotation to the authors, and here.
        whitening_units: components kept, the first of the `K`; by default all.
        freeze_batch_norm: keep batch normalization at its stored statistics when the
            model is trained further, as the authors did.
        name: name of the model.

    Returns:
        A functional `keras.Model`, a `retrieval_model`: from images `(B, H, W, 3)`,
        uint8 or float of 0-255, RGB, of any size, to float32 embeddings `(B, D)` of
        unit length. A `.keras` file of it needs neither the checkpoint nor keras-hub.

    Raises:
        ImportError: keras-hub is not installed.
        ValueError: the file cannot be read or is no such checkpoint; it describes a
            network of another kind, or options that change this one; weights are
            missing, left over, of another shape or not finite; or the choice of
            the PCA is not clear. Each is named.

    Example:
    >>> import pathlib
    >>> from keras_aploss import load_ap_gem
    >>> path = pathlib.Path("Resnet-101-AP-GeM.pt")  # from the page of the authors
    >>> if path.exists():
    ...     model = load_ap_gem(path, whitening="Landmarks_clean")
    ...     model.save("Resnet-101-AP-GeM.keras")
    """
    resnet = _import_resnet()
    if not 0 <= whitening_power <= 1:
        raise ValueError(
            "Expected `whitening_power` in [0, 1]; the authors use 0.25. Received: "
            f"whitening_power={whitening_power!r}."
        )
    path = os.fspath(path)
    checkpoint = read_torch_file(path)
    try:
        weights = find_weights(checkpoint)
        arch, pooling, units = read_options(checkpoint, weights)
        mean, std = read_colours(checkpoint)
        pca = choose_pca(checkpoint, whitening)
        if pca is not None:
            size = units or CHANNELS[arch]
            pca = read_pca(pca, size, whitening_power, whitening_units)
        network, backbone = _backbone(resnet, arch, mean, std)
        model = retrieval_model(
            backbone,
            units,
            pooling=pooling,
            whitening=False if pca is None else _whitening(pca, whitening_power),
            freeze_batch_norm=freeze_batch_norm,
            name=name,
        )
        check_exponent(weights)
        assign_weights(weights, _variables(model, network))
    except RefusedError as error:
        raise ValueError(
            "Expected a checkpoint of the authors of AP-GeM. Received: path="
            f"{path!r}, {error.what}. {error.mend}"
        ) from error
    return model


def _import_resnet():
    try:
        from keras_hub.models import ResNetBackbone
    except ImportError as error:
        raise ImportError(
            "Expected keras-hub, of which the network is made. Received: "
            f'{error}. Install it: pip install "keras_aploss[hub]"'
        ) from error
    return ResNetBackbone


def _backbone(resnet, arch, mean, std):
    """The ResNet, and the model of it that takes pixels of 0-255."""
    block_type, blocks = BLOCKS[arch]
    network = resnet(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[7],
        stackwise_num_filters=[64, 128, 256, 512],
        stackwise_num_blocks=blocks,
        stackwise_num_strides=[1, 2, 2, 2],
        block_type=block_type,
        data_format="channels_last",
    )
    # A model of its layers alone: keras-hub's class would be needed to load a file.
    network = keras.Model(network.inputs, network.outputs[0], name="resnet")
    images = keras.Input((None, None, 3), name="images")
    x = layers.Rescaling((1 / (255 * std)).tolist(), (-mean / std).tolist())(images)
    return network, keras.Model(images, network(x), name=arch.removesuffix("_rmac"))


def _whitening(pca, power):
    mean, kernel = pca
    layer = PCAWhitening(kernel.shape[1], power, name="whitening", dtype="float32")
    layer.build((None, len(mean)))
    layer.mean.assign(mean)
    layer.kernel.assign(kernel)
    return layer


def _torch_name(layer_name):
    """`layer3.0.conv1` for `stack2_block0_1_conv`, `bn1` for `conv1_bn`."""
    match = re.fullmatch(r"stack(\d)_block(\d+)_(\d)_(conv|bn)", layer_name)
    if not match:
        return layer_name.removeprefix("conv1_") + "1"
    stack, block, index, kind = match.groups()
    part = f"downsample.{int(kind == 'bn')}" if index == "0" else f"{kind}{index}"
    return f"layer{int(stack) + 1}.{block}.{part}"


def _variables(model, network):
    """The variables by PyTorch's names, each with the order of the axes there."""
    variables = {}
    for layer in network.layers:
        name = _torch_name(layer.name)
        if isinstance(layer, layers.Conv2D):
            variables[f"{name}.weight"] = layer.kernel, (3, 2, 0, 1)
        elif isinstance(layer, layers.BatchNormalization):
            variables |= batch_norm_variables(name, layer)
    for layer in model.layers:
        if isinstance(layer, GeneralizedMeanPooling2D):
            variables["adpool.p"] = layer.p, (0,)
        elif isinstance(layer, layers.Dense):
            variables["fc.weight"] = layer.kernel, (1, 0)
            variables["fc.bias"] = layer.bias, (0,)
    return variables
