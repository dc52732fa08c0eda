"""A GPU that is none: what is asked of one, and when, without any numbers.

Tensors of torch's fake mode know their shapes and their device, and nothing else. Whatever would wait for a device (a
number that is asked for, indices of what is true, numpy) fails on them, and so does an operation of tensors on several
devices. Launches are counted as torch dispatches them: an operation that composes others counts as those, one that
only looks at memory in another way counts nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from ovseg_cli import devices
from ovseg_cli.backbones.clip import ClipBackbone
from ovseg_cli.backbones.phrases import PromptEmbedding, PromptEncoder
from ovseg_cli.backbones.quiet import quiet_libraries
from ovseg_cli.backbones.unet import DiffusionBackbone, _last_draw
from ovseg_cli.labeling import decide, windows
from ovseg_cli.methods import domain, prototype
from ovseg_cli.models import Backbone
from ovseg_cli.profiles import Profile, Weights, require_weights
from ovseg_cli.random_models import RandomModels, cheap_weights, maker
from ovseg_cli.scorers import words
from ovseg_cli.segmentation import images

GPU = "cuda:0"
FREE = 2**35
"""Bytes of memory that it has free."""

ATEN = torch.ops.aten

NO_KERNELS = frozenset(
    (
        *(ATEN.empty.memory_format, ATEN.empty_like.default, ATEN.new_empty.default, ATEN.empty_strided.default),
        *(ATEN.detach.default, ATEN.detach_.default, ATEN.lift_fresh.default, ATEN.alias.default),
        ATEN._unsafe_view.default,
    )
)
"""Operations that no device is told of."""


@dataclass(slots=True)
class Asked:
    """What a device was asked for.

    Attributes:
        launches: By operation, how often.
        put: Shapes of what was copied to it.
        waited: Those of them that were copied in a way that waits for it.
        fetched: Shapes and types of what was copied from it.
    """

    launches: Counter[str] = field(default_factory=Counter)
    put: list[tuple[int, ...]] = field(default_factory=list)
    waited: list[tuple[int, ...]] = field(default_factory=list)
    fetched: list[tuple[tuple[int, ...], torch.dtype]] = field(default_factory=list)


class Counting(TorchDispatchMode):
    """Writes down what devices other than the CPU are asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = Asked()

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if operation.namespace == "prim":
            return operation(*args, **kwargs)
        composed = torch._C._dispatch_has_kernel_for_dispatch_key(operation.name(), "CompositeImplicitAutograd")
        if composed and operation is not ATEN.scaled_dot_product_attention.default:  # which one kernel does
            with self:
                return operation._op_dk(torch._C.DispatchKey.CompositeImplicitAutograd, *args, **kwargs)
        result = operation(*args, **kwargs)
        if operation in NO_KERNELS or operation.is_view:
            return result
        if operation in (ATEN._to_copy.default, ATEN.copy_.default):
            self._copied(args[operation is ATEN.copy_.default], result, args, kwargs)
        made = result if isinstance(result, (tuple, list)) else [result]
        if any(isinstance(one, Tensor) and one.device.type != "cpu" for one in made):
            self.asked.launches[str(operation).removeprefix("aten.")] += 1
        return result

    def _copied(self, source: Tensor, result: Tensor, args: Any, kwargs: Any) -> None:
        if source.device.type == "cpu" != result.device.type:
            self.asked.put.append(tuple(source.shape))
            if not (kwargs.get("non_blocking") or args[2:3] == (True,)):
                self.asked.waited.append(tuple(source.shape))
        elif source.device.type != "cpu" == result.device.type:
            self.asked.fetched.append((tuple(source.shape), source.dtype))


class PretendedModels(RandomModels):
    """A profile's models on a GPU that is none. Use them inside `pretended_gpu`.

    Args:
        profile: Which models.
        mode: From `pretended_gpu`.
        precision: As for `Models`.
    """

    def __init__(self, profile: Profile, mode: FakeTensorMode, precision: Any = "auto") -> None:
        super().__init__(profile, GPU, precision=precision)
        self._mode = mode

    @property
    def domain(self) -> domain.Domain | None:
        """What tells pictures that the models know from others."""
        if self.profile.domain is not None and self._domain is None:
            folder = require_weights(self.profile.domain.weights, self.profile)
            clip = self.clip
            with _disable_current_modes(), patch.object(domain, "put", lambda tensor, _device: self._fake(tensor)):
                self._domain = domain.Domain(clip, self.profile.clip, self.profile.domain, folder)
        return self._domain

    def _get(self, kind: type[Backbone], weights: Weights) -> Backbone:
        if (kind, weights) not in self._loaded:
            with _disable_current_modes(), quiet_libraries():
                made = self._real(kind, weights)
                for part in made.pipeline.components.values() if hasattr(made, "pipeline") else [made.model]:
                    if isinstance(part, nn.Module):
                        self._pretend(part)
            made.device = GPU
            if isinstance(made, DiffusionBackbone):
                made.prompts._device = GPU
            self._loaded[kind, weights] = made
        return self._loaded[kind, weights]

    def _real(self, kind: type[Backbone], weights: Weights) -> Any:
        """The network where its weights are on the CPU, or where they are only shapes."""
        if weights.bundled is not None:
            settings = {"variant": weights.variant} if kind is DiffusionBackbone else {}
            return kind.load(require_weights(weights, self.profile), device="cpu", dtype=self.dtype, **settings)
        with cheap_weights():
            if kind is ClipBackbone:  # open_clip puts it onto the CPU by itself
                return maker(weights)("cpu", self.dtype)
            on_cpu = DiffusionBackbone._use_sampler

            def use_sampler(backbone: DiffusionBackbone, *how: Any) -> None:
                with torch.device("cpu"):  # its numbers are read
                    on_cpu(backbone, *how)

            with torch.device("meta"), patch.object(DiffusionBackbone, "_use_sampler", use_sampler):
                return maker(weights)("meta", self.dtype)

    def _pretend(self, network: nn.Module) -> None:
        for module in network.modules():
            for own in (module._parameters, module._buffers):
                for name, tensor in own.items():
                    if tensor is not None:
                        fake = self._fake(tensor.detach())
                        own[name] = nn.Parameter(fake, requires_grad=False) if own is module._parameters else fake

    def _fake(self, tensor: Tensor) -> Tensor:
        return FakeTensor(self._mode, tensor.to("meta"), torch.device(GPU))


@contextmanager
def pretended_gpu() -> Iterator[FakeTensorMode]:
    """While the block runs, there is a GPU, and no numbers on it. Texts are not read: each is some vector."""

    def embed_words(clip: ClipBackbone, texts: Any, *_: Any, **__: Any) -> Tensor:
        return torch.zeros(len(texts), clip.model.visual.proj.shape[1], device=GPU)

    def encode(prompts: PromptEncoder, _text: str) -> PromptEmbedding:
        config = prompts._pipeline.unet.config
        return PromptEmbedding(
            torch.zeros(1, 77, config.cross_attention_dim, device=GPU, dtype=prompts._pipeline.unet.dtype), None
        )

    def fetch(tensor: Tensor) -> np.ndarray:
        tensor.cpu()
        return np.zeros(tensor.shape, str(tensor.dtype).removeprefix("torch."))

    kept = (devices._constant, windows._cover, prototype._line, _last_draw)

    def forget() -> None:  # what is kept for a device is of this pretence
        for made in kept:
            made.cache_clear()

    with ExitStack() as stack:
        stack.callback(forget)
        stack.enter_context(patch.object(Tensor, "pin_memory", lambda tensor: tensor))
        stack.enter_context(patch.object(devices, "free_memory", lambda _device: FREE))
        stack.enter_context(patch.object(words, "embed_words", embed_words))
        stack.enter_context(patch.object(PromptEncoder, "encode", encode))
        for module in (decide, images):
            stack.enter_context(patch.object(module, "fetch", fetch))
        forget()
        yield stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
