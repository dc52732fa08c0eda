"""The mask decoder of DEDOS: Mask2Former's two decoders, of transformers' own modules.

Cheng, Misra, Schwing, Kirillov and Girdhar, "Masked-attention Mask Transformer for Universal Image Segmentation", CVPR
2022. Transformers' whole model has queries of its own; here they come from outside, for each picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from transformers import Mask2FormerConfig
from transformers.models.mask2former.modeling_mask2former import (
    Mask2FormerMaskedAttentionDecoder,
    Mask2FormerPixelDecoder,
    Mask2FormerPreTrainedModel,
    Mask2FormerSinePositionEmbedding,
)

from ovseg_cli.heads.sizes import DedosSizes

LEVELS = 3
"""Scales that the mask decoder looks at; transformers' modules know no other number."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """What the decoders make of a batch.

    Attributes:
        objects: For each layer, the queries' own first: (B, n, c).
        masks: For each layer: mask logits (B, n, 4 h, 4 w).
        levels: The pixel decoder's maps, coarsest first: (B, c, h / 2, w / 2), (B, c, h, w), (B, c, 2 h, 2 w).
        finest: Its mask features, (B, c, 4 h, 4 w).
    """

    objects: tuple[Tensor, ...]
    masks: tuple[Tensor, ...]
    levels: tuple[Tensor, ...]
    finest: Tensor


class MaskDecoder(Mask2FormerPreTrainedModel):
    """Pixel decoder and masked-attention decoder.

    A subclass of transformers' base class, since that initialises what the modules leave empty.

    Args:
        sizes: Sizes and numbers of layers.
        channels: Of the four maps, finest first.
    """

    def __init__(self, sizes: DedosSizes, channels: Sequence[int]) -> None:
        width = sizes.width
        config = Mask2FormerConfig(
            feature_size=width,
            mask_feature_size=width,
            hidden_dim=width,
            encoder_feedforward_dim=sizes.feedforward[0],
            dim_feedforward=sizes.feedforward[1],
            encoder_layers=sizes.encoder_layers,
            decoder_layers=sizes.decoder_layers + 1,  # the queries count as one there
            num_attention_heads=sizes.decoder_heads,
            num_queries=sizes.count,
            dropout=0.0,  # transformers leaves out whole layers by this
        )
        super().__init__(config)
        self.pixels = Mask2FormerPixelDecoder(config, feature_channels=list(channels))
        self.positions = Mask2FormerSinePositionEmbedding(num_position_features=width // 2, normalize=True)
        self.level_embed = nn.Embedding(LEVELS, width)
        self.query_positions = nn.Embedding(sizes.count, width)
        self.layers = Mask2FormerMaskedAttentionDecoder(config)
        self.post_init()

    def forward(self, maps: Sequence[Tensor], queries: Tensor) -> Decoded:
        """Decode.

        Args:
            maps: Four maps (B, C, ...), finest first, each half as fine as the one before.
            queries: Query content Q, (B, n, c).
        """
        found = self.pixels(list(maps), output_hidden_states=False, return_dict=True)
        levels, finest = tuple(found.multi_scale_features), found.mask_features
        places, contents = [], []
        for number, level in enumerate(levels[:LEVELS]):
            position = self.positions(level.shape, level.device, level.dtype, None)
            places.append(position.flatten(2).permute(2, 0, 1))
            contents.append((level.flatten(2) + self.level_embed.weight[number][None, :, None]).permute(2, 0, 1))
        decoded = self.layers(
            inputs_embeds=queries.transpose(0, 1),
            multi_stage_positional_embeddings=places,
            pixel_embeddings=finest,
            encoder_hidden_states=contents,
            query_position_embeddings=self.query_positions.weight[:, None].expand(-1, len(queries), -1),
            feature_size_list=[level.shape[-2:] for level in levels[:LEVELS]],
            return_dict=True,
        )
        objects = tuple(each.transpose(0, 1) for each in decoded.intermediate_hidden_states)
        return Decoded(objects, tuple(decoded.masks_queries_logits), levels, finest)
