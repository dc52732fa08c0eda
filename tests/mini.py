"""The bundled models, loaded once for every test that needs them, and models with random weights."""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

import ovseg_cli.profiles
from ovseg_cli.models import Models, load_models
from ovseg_cli.profiles import Weights, get_profile
from ovseg_cli.prototypes.build import SupportSettings, build_class
from ovseg_cli.random_models import SD15_UNET
from ovseg_cli.store.records import ClassRecord

MINI_FOLDER = Path(ovseg_cli.profiles.__file__).parent / "mini"
EXAMPLES = Path(__file__).parents[1] / "examples" / "pictograms"


@functools.cache
def mini_models() -> Models:
    return load_models(get_profile("mini"), device="cpu")


@functools.cache
def mini_class(name: str, count: int = 6, steps: int = 12) -> ClassRecord:
    return build_class(mini_models(), name, SupportSettings(count=count, steps=steps))


@functools.cache
def example_scene(number: int) -> np.ndarray:
    with Image.open(EXAMPLES / "images" / f"scene_{number:03d}.jpg") as image:
        return np.asarray(image.convert("RGB"))


@functools.cache
def example_labels(number: int) -> np.ndarray:
    with Image.open(EXAMPLES / "labels" / f"scene_{number:03d}.png") as image:
        return np.asarray(image)


@functools.cache
def example_names() -> tuple[str, ...]:
    """Line i names label id i."""
    lines = (EXAMPLES / "labels" / "labelmap.txt").read_text(encoding="utf-8").splitlines()
    return tuple(line.split(":")[0] for line in lines if line and not line.startswith("#"))


def random_pictures(count: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    """Smooth noise, float (count, 3, height, width) in [0, 1]: pure noise would vanish when it is resized."""
    random = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 6, 6, generator=random)
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")


# --------------------------------------------------------------------------- the hub's cache, in small


def put_into_hub_cache(cache: Path, weights: Weights, source: Path) -> Path:
    """Lay the files of `source` out as the hub's client does: blobs, links in a snapshot, a ref."""
    repo = cache / f"models--{weights.repo.replace('/', '--')}"
    snapshot = repo / "snapshots" / weights.revision
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(weights.revision)
    (repo / "blobs").mkdir()
    for file in sorted(f for f in source.rglob("*") if f.is_file()):
        data = file.read_bytes()
        large = file.suffix == ".safetensors"
        name = hashlib.sha256(data) if large else hashlib.sha1(b"blob %d\0" % len(data) + data)
        blob = repo / "blobs" / name.hexdigest()
        blob.write_bytes(data)
        link = snapshot / file.relative_to(source)
        link.parent.mkdir(parents=True, exist_ok=True)
        up = "../" * len(link.relative_to(repo).parent.parts)
        link.symlink_to(f"{up}blobs/{blob.name}")
    return snapshot


def _write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def write_tiny_stable_diffusion(folder: Path) -> None:
    """Stable Diffusion 1.5's folder with its files' names and configurations, but narrow and with random weights."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    _write_json(
        folder / "model_index.json",
        {
            "_class_name": "StableDiffusionPipeline",
            "_diffusers_version": "0.6.0",
            "feature_extractor": ["transformers", "CLIPImageProcessor"],
            "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
            "scheduler": ["diffusers", "PNDMScheduler"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        },
    )
    _write_json(
        folder / "scheduler" / "scheduler_config.json",
        {
            "_class_name": "PNDMScheduler",
            "_diffusers_version": "0.6.0",
            "beta_end": 0.012,
            "beta_schedule": "scaled_linear",
            "beta_start": 0.00085,
            "clip_sample": False,
            "num_train_timesteps": 1000,
            "set_alpha_to_one": False,
            "skip_prk_steps": True,
            "steps_offset": 1,
            "trained_betas": None,
        },
    )
    # The real folder has no tokenizer.json, only the older pair of files.
    (folder / "tokenizer").mkdir()
    for name in ("vocab.json", "merges.txt"):
        (folder / "tokenizer" / name).write_bytes((MINI_FOLDER / "diffusion" / "tokenizer" / name).read_bytes())
    _write_json(
        folder / "tokenizer" / "tokenizer_config.json",
        {
            "add_prefix_space": False,
            "bos_token": "<|startoftext|>",
            "do_lower_case": True,
            "eos_token": "<|endoftext|>",
            "errors": "replace",
            "model_max_length": 77,
            "pad_token": "<|endoftext|>",
            "tokenizer_class": "CLIPTokenizer",
            "unk_token": "<|endoftext|>",
        },
    )
    _write_json(
        folder / "tokenizer" / "special_tokens_map.json",
        {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
    )
    narrow = {**SD15_UNET, "block_out_channels": [8, 16, 32, 32], "norm_num_groups": 4, "cross_attention_dim": 16}
    unet = UNet2DConditionModel.from_config({**narrow, "attention_head_dim": 2})
    vae = AutoencoderKL(
        block_out_channels=(4, 4, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        norm_num_groups=2,
        sample_size=512,
    )
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=932,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=77,
            bos_token_id=0,
            eos_token_id=2,
        )
    )
    unet.half().save_pretrained(folder / "unet", variant="fp16")
    vae.half().save_pretrained(folder / "vae", variant="fp16")
    text.half().save_pretrained(folder / "text_encoder", variant="fp16")


def write_tiny_clip(folder: Path, *, quick_gelu: bool = True) -> None:
    """A folder as timm's OpenAI CLIP on the hub: OpenAI's tokenizer (no tokenizer named in the configuration)."""
    import open_clip

    torch.manual_seed(1)
    config = {
        "embed_dim": 8,
        "quick_gelu": quick_gelu,
        "vision_cfg": {"image_size": 224, "layers": 3, "width": 32, "head_width": 8, "patch_size": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1},
    }
    folder.mkdir(parents=True)
    _write_json(folder / "open_clip_config.json", {"model_cfg": config, "preprocess_cfg": {"mean": [0.5] * 3}})
    save_file(open_clip.CLIP(**config).state_dict(), folder / "open_clip_model.safetensors")


def write_tiny_dino(folder: Path) -> None:
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(2)
    config = ViTConfig(
        hidden_size=24, num_hidden_layers=3, num_attention_heads=3, intermediate_size=32, patch_size=8, image_size=224
    )
    ViTModel(config).save_pretrained(folder)  # with a pooler, as the published file has


def write_tiny_dinov2(folder: Path) -> None:
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(3)
    config = Dinov2Config(
        hidden_size=24, num_hidden_layers=3, num_attention_heads=3, mlp_ratio=2, patch_size=14, image_size=112
    )
    Dinov2Model(config).save_pretrained(folder)


def write_tiny_mae(folder: Path) -> None:
    """With its decoder and in a pickle, as the published file is."""
    from safetensors.torch import load_file
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    torch.manual_seed(4)
    config = ViTMAEConfig(
        hidden_size=40,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=48,
        patch_size=16,
        image_size=224,
        decoder_hidden_size=16,
        decoder_num_hidden_layers=1,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=16,
    )
    ViTMAEForPreTraining(config).save_pretrained(folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def write_tiny_sam(folder: Path) -> None:
    """The files of SAM on the hub, with random weights, for pictures of 64 pixels."""
    from transformers import (
        SamConfig,
        SamImageProcessor,
        SamMaskDecoderConfig,
        SamModel,
        SamPromptEncoderConfig,
        SamVisionConfig,
    )

    torch.manual_seed(5)
    config = SamConfig(
        vision_config=SamVisionConfig(
            hidden_size=16,
            output_channels=8,
            num_pos_feats=4,
            num_hidden_layers=2,
            num_attention_heads=2,
            mlp_dim=16,
            image_size=64,
            patch_size=8,
            global_attn_indexes=[1],
            window_size=4,
        ).to_dict(),
        prompt_encoder_config=SamPromptEncoderConfig(
            hidden_size=8, image_size=64, patch_size=8, mask_input_channels=4
        ).to_dict(),
        mask_decoder_config=SamMaskDecoderConfig(
            hidden_size=8, mlp_dim=16, num_attention_heads=2, iou_head_hidden_dim=8
        ).to_dict(),
    )
    SamModel(config).save_pretrained(folder)
    SamImageProcessor(
        size={"longest_edge": 64},
        pad_size={"height": 64, "width": 64},
        mask_size={"longest_edge": 16},
        mask_pad_size={"height": 16, "width": 16},
    ).save_pretrained(folder)


def write_tiny_sam2(folder: Path) -> None:
    """The files of SAM 2.1 on the hub, whose configurations name the video model and an older image processor."""
    from transformers import Sam2Config, Sam2ImageProcessor, Sam2Model
    from transformers.models.sam2.configuration_sam2 import (
        Sam2HieraDetConfig,
        Sam2MaskDecoderConfig,
        Sam2PromptEncoderConfig,
        Sam2VisionConfig,
    )

    torch.manual_seed(6)
    backbone = Sam2HieraDetConfig(
        hidden_size=8,
        num_attention_heads=1,
        image_size=[64, 64],
        blocks_per_stage=[1, 1, 1, 1],
        embed_dim_per_stage=[8, 16, 32, 64],
        num_attention_heads_per_stage=[1, 1, 1, 1],
        window_size_per_stage=[4, 4, 4, 4],
        global_attention_blocks=[],
        window_positional_embedding_background_size=[4, 4],
    )
    config = Sam2Config(
        vision_config=Sam2VisionConfig(
            backbone_config=backbone.to_dict(),
            backbone_channel_list=[64, 32, 16, 8],
            backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]],
            fpn_hidden_size=32,
        ).to_dict(),
        prompt_encoder_config=Sam2PromptEncoderConfig(
            hidden_size=32, image_size=64, patch_size=16, mask_input_channels=4
        ).to_dict(),
        mask_decoder_config=Sam2MaskDecoderConfig(
            hidden_size=32, mlp_dim=16, num_attention_heads=2, iou_head_hidden_dim=8
        ).to_dict(),
    )
    Sam2Model(config).save_pretrained(folder)
    Sam2ImageProcessor(size={"height": 64, "width": 64}, mask_size={"height": 16, "width": 16}).save_pretrained(folder)
    for name, changes in (
        ("config.json", {"model_type": "sam2_video", "architectures": ["Sam2VideoModel"]}),
        ("preprocessor_config.json", {"image_processor_type": "Sam2ImageProcessorFast"}),
    ):
        path = folder / name
        _write_json(path, {**json.loads(path.read_text(encoding="utf-8")), **changes})
