"""The authors' network in PyTorch, written from its description: the oracle.

Run it to make the golden files again: `python tests/torch_network.py`.
"""

import argparse
import pathlib
import sys
import types

import numpy as np
import torch
import torch_format
from sklearn.decomposition import PCA
from torch import nn
from torch.nn import functional

BLOCKS = {
    "resnet18_rmac": (2, 2, 2, 2),
    "resnet50_rmac": (3, 4, 6, 3),
    "resnet101_rmac": (3, 4, 23, 3),
    "resnet152_rmac": (3, 8, 36, 3),
}
MEAN = torch.tensor([0.485, 0.456, 0.406]).reshape(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).reshape(3, 1, 1)


class Block(nn.Module):
    def __init__(self, inputs, width, stride, bottleneck):
        super().__init__()
        outputs = 4 * width if bottleneck else width
        if bottleneck:  # "v1.5": the stride is that of the 3 x 3
            self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
            self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
            self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
            self.bn3 = nn.BatchNorm2d(outputs)
        else:
            self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
            self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False),
                nn.BatchNorm2d(outputs),
            )

    def forward(self, x):
        shortcut = x if self.downsample is None else self.downsample(x)
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        if hasattr(self, "conv3"):
            x = self.bn3(self.conv3(functional.relu(x)))
        return functional.relu(x + shortcut)


class Pooling(nn.Module):
    def __init__(self):
        super().__init__()
        self.p = nn.Parameter(torch.ones(1) * 3)

    def forward(self, x):
        return x.clamp(min=1e-6).pow(self.p).mean(dim=(2, 3)).pow(1 / self.p)


class Network(nn.Module):
    def __init__(self, arch, units, *, with_fc=True):
        super().__init__()
        bottleneck = arch != "resnet18_rmac"
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        inputs = 64
        for index, count in enumerate(BLOCKS[arch]):
            width = 64 * 2**index
            blocks = []
            for block in range(count):
                stride = 2 if block == 0 and index > 0 else 1
                blocks.append(Block(inputs, width, stride, bottleneck))
                inputs = 4 * width if bottleneck else width
            setattr(self, f"layer{index + 1}", nn.Sequential(*blocks))
        self.adpool = Pooling()
        self.fc = nn.Linear(inputs, units)
        self.with_fc = with_fc

    def forward(self, x):
        x = functional.relu(self.bn1(self.conv1(x)))
        x = functional.max_pool2d(x, 3, 2, 1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        x = self.adpool(x)
        return functional.normalize(self.fc(x) if self.with_fc else x)


def network_of(arch, weights, **options):
    network = Network(arch, len(weights["fc.bias"]), **options)
    state = {name: torch.from_numpy(value) for name, value in weights.items()}
    missing, unexpected = network.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing)
    return network.eval()


def embedding_of(network, image):
    """The embedding `(D,)` of an image `(H, W, 3)` of 0-255."""
    pixels = torch.from_numpy(image.transpose(2, 0, 1).astype("float32")) / 255
    with torch.no_grad():
        return network((pixels - MEAN)[None] / STD[None])[0].double().numpy()


def whiten(embedding, mean, components, variance, power=0.25):
    whitened = components.astype("float64") @ (embedding - mean) / variance**power
    return whitened / np.linalg.norm(whitened)


def save(path, checkpoint, *, legacy=False):
    """`torch.save`, with a PCA of scikit-learn under its old name."""
    old = types.ModuleType("sklearn.decomposition.pca")
    old.PCA, kept = PCA, PCA.__module__
    sys.modules[old.__name__], PCA.__module__ = old, old.__name__
    try:
        torch.save(checkpoint, path, _use_new_zipfile_serialization=not legacy)
    finally:
        PCA.__module__ = kept
        del sys.modules[old.__name__]
    return path


def write_golden(folder):
    golden = {}
    for arch in ("resnet18_rmac", "resnet50_rmac"):
        weights = torch_format.seeded_weights(arch, 32)
        network = network_of(arch, weights)
        embeddings = [
            embedding_of(network, torch_format.seeded_image(*size))
            for size in ((97, 131), (225, 160))
        ]
        pca = torch_format.seeded_pca(32).attributes
        parts = pca["mean_"], pca["components_"], pca["explained_variance_"]
        golden[arch] = np.stack(embeddings)
        golden[f"{arch}_whitened"] = np.stack([whiten(x, *parts) for x in embeddings])
        golden[f"{arch}_checksum"] = torch_format.checksum(weights)
    np.savez(folder / "ap_gem.npz", **golden)
    checkpoint = small_checkpoint()
    save(folder / "torch_zip.pt", checkpoint)
    save(folder / "torch_legacy.pt", checkpoint, legacy=True)


def small_checkpoint():
    """One of each thing that a checkpoint can hold."""
    numbers = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    state = nn.BatchNorm2d(3).state_dict()
    state["transposed"] = numbers.t()
    state["part"] = numbers[1:3, ::2]
    state["parameter"] = nn.Parameter(numbers[0])
    state["none"] = torch.zeros(0, 3)
    state["number"] = torch.tensor(3.0)
    for kind in (torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool):
        state[str(kind)] = numbers[0].to(kind)
    data = np.random.RandomState(0).standard_normal((20, 4)).astype("float32")
    return {
        "state_dict": state,
        "pca": {"Landmarks_clean": PCA(whiten=True, svd_solver="full").fit(data)},
        "args": argparse.Namespace(lr=0.1, kind=int, steps={1, 2}, none=b"", p=[2.5]),
        "size": torch.Size([1, 2]),
        "numpy": np.int64(7),
    }


if __name__ == "__main__":
    write_golden(pathlib.Path(__file__).parent / "golden")
