"""Weights, pictures and masks that are the same on every machine: what both implementations are fed with.

Parameters are filled by name from the raw stream of a bit generator, which numpy promises never to change, and not
by torch's initialisation, whose order and random numbers change between versions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

GOLDEN = Path(__file__).parent / "golden"

Floats = npt.NDArray[np.float32]


def uniform(name: str, shape: tuple[int, ...]) -> Floats:
    """Numbers in [0, 1) that depend on a name only: 24 bits of the raw stream of PCG64 each."""
    count = int(np.prod(shape))
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:16], "little")
    words = np.random.PCG64(seed).random_raw((count + 1) // 2).astype("<u8", copy=False).view("<u4")[:count]
    return ((words >> 8).astype(np.float32) * np.float32(2**-24)).reshape(shape)


def noise(name: str, shape: tuple[int, ...]) -> Floats:
    """Numbers of mean 0 and variance 1 that depend on a name only."""
    return (uniform(name, shape) - np.float32(0.5)) * np.float32(np.sqrt(12))


def parameter(name: str, shape: tuple[int, ...]) -> Floats:
    """A parameter of a network, scaled so that activations neither vanish nor explode.

    Layers keep the variance of what they see; norms differ from doing nothing; embeddings have a spread of a half.
    """
    leaf = name.rpartition(".")[2]
    if "embedding" in name or leaf in ("pos_embed", "cls_token"):
        return noise(name, shape) * np.float32(0.5)
    if leaf.endswith("bias"):
        return noise(name, shape) * np.float32(0.1)
    if len(shape) < 2:
        return 1 + noise(name, shape) * np.float32(0.1)
    return noise(name, shape) / np.float32(np.sqrt(np.prod(shape[1:])))


@torch.no_grad()
def fill(module: nn.Module, prefix: str = "") -> None:
    """Fill every parameter of a module by its name below `prefix`."""
    for name, tensor in module.named_parameters():
        tensor.copy_(torch.from_numpy(np.asarray(parameter(prefix + name, tuple(tensor.shape)))))
    module.eval().requires_grad_(False)


def picture(name: str, height: int, width: int) -> npt.NDArray[np.uint8]:
    """A picture with large and small structure, uint8 (height, width, 3)."""
    coarse = torch.from_numpy(uniform(name + "/coarse", (1, 3, 7, 9)))
    smooth = nn.functional.interpolate(coarse, (height, width), mode="bilinear", align_corners=False)[0]
    fine = torch.from_numpy(uniform(name + "/fine", (3, height, width)))
    return ((0.8 * smooth + 0.2 * fine) * 255).byte().permute(1, 2, 0).contiguous().numpy()


def as_tensor(image: npt.NDArray[np.uint8]) -> Tensor:
    """uint8 (H, W, 3) as float32 (1, 3, H, W) in [0, 1]."""
    return torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255


def sample(name: str, values: Tensor | Floats, count: int) -> Floats:
    """`count` of the values, at places that depend on the name only; all of them where there are no more."""
    flat = values.numpy().reshape(-1) if isinstance(values, Tensor) else values.reshape(-1)
    if flat.size <= count:
        return flat.astype(np.float32)
    places = (uniform(name + "/places", (count,)).astype(np.float64) * flat.size).astype(np.int64)
    return flat[places].astype(np.float32)


def golden(piece: str) -> dict[str, npt.NDArray[np.generic]]:
    """What the published code gave."""
    with np.load(GOLDEN / f"{piece}.npz", allow_pickle=False) as archive:
        return dict(archive)


def write_golden(piece: str, values: Mapping[str, npt.NDArray[np.generic]]) -> None:
    """Keep what the published code gave."""
    np.savez_compressed(GOLDEN / f"{piece}.npz", allow_pickle=False, **values)


def difference(ours: Tensor | Floats, theirs: npt.NDArray[np.generic]) -> float:
    """Largest difference, as a share of the range of the values."""
    values = ours.detach().cpu().numpy() if isinstance(ours, Tensor) else np.asarray(ours)
    if values.shape != theirs.shape:
        raise AssertionError(f"shapes differ: {values.shape} and {theirs.shape}")
    wanted = theirs.astype(np.float64)
    span = float(wanted.max() - wanted.min())
    if span == 0:
        raise AssertionError("the golden values are all equal")
    return float(np.abs(values.astype(np.float64) - wanted).max()) / span
