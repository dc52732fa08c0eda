"""Makes tests/parity/golden/ by calling the functions of OVDiff's published code (no test; needs its checkouts).

    python -m tests.parity.makers.pieces PIECE... --sdov DIR --clip DIR --dino DIR

with DIR the checkouts of github.com/karazijal/sdov (commit 218566b1), github.com/openai/CLIP (d05afc43) and
github.com/facebookresearch/dino (7c446df5). None of that code is here: sdov has no licence. What is replaced so that it
runs today, and which function each array comes from, is said in README.md beside this file.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.machinery
import sys
import tempfile
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from tests.parity import scenes
from tests.parity.inputs import as_tensor, fill, noise, picture, sample, uniform, write_golden

PROMPT = "A good picture of a {}"
NEGATIVE = "text, low quality, blurry, cartoon, meme, low resolution, bad, poor, faded"

# --------------------------------------------------------------------------- the published code, importable today


def module(name: str, **contents: Any) -> types.ModuleType:
    """An importable module that holds only this."""
    made = types.ModuleType(name)
    made.__spec__ = importlib.machinery.ModuleSpec(name, None)
    made.__dict__.update(contents)
    sys.modules[name] = made
    return made


class _Registry:
    @staticmethod
    def register_module(**_settings: Any) -> Callable[[type], type]:
        return lambda cls: cls


def make_importable(sdov: Path, clip: Path) -> None:
    """Stand-ins for what is gone or not installed; each stands for a name, none for something that is computed."""
    import diffusers.models.attention_processor as attention
    import diffusers.utils as diffusers_utils
    from diffusers import DiffusionPipeline
    from diffusers.utils.torch_utils import randn_tensor

    module("diffusers.models.cross_attention", CrossAttention=attention.Attention)
    module("diffusers.pipeline_utils", DiffusionPipeline=DiffusionPipeline)
    diffusers_utils.randn_tensor = randn_tensor
    sys.modules["transformers"].CLIPFeatureExtractor = None  # an annotation only
    module("mmseg")
    module("mmseg.datasets", DATASETS=_Registry, PascalVOCDataset=object)
    module("mmseg.core")
    module("mmseg.core.evaluation")
    module(
        "mmseg.core.evaluation.metrics",
        intersect_and_union=lambda *_: (0, 0, 0, 0),
        total_area_to_metrics=lambda *_, **__: {"IoU": np.zeros(1)},
    )
    module("detectron2")
    module("detectron2.checkpoint", DetectionCheckpointer=None)
    module("detectron2.config", get_cfg=None)
    for name in ("CutLER", "CutLER.cutler", "CutLER.cutler.config", "CutLER.cutler.modeling"):
        module(name)
    module("CutLER.cutler.config.cutler_config", add_cutler_config=None)
    module("CutLER.cutler.modeling.meta_arch", build_model=None)
    sys.path[:0] = [str(sdov), str(clip)]


@contextlib.contextmanager
def replaced(owner: Any, **changes: Any) -> Iterator[None]:
    """Attributes changed for a while."""
    before = {name: getattr(owner, name) for name in changes}
    for name, value in changes.items():
        setattr(owner, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)


def call_main(script: Any, *arguments: object) -> None:
    """Run the `main` of one of its scripts as the command line would."""
    with replaced(sys, argv=[script.__name__, *map(str, arguments)]):
        script.main()


# --------------------------------------------------------------------------- Stable Diffusion


def stable_diffusion(size: str) -> None:
    """Query features of one picture; pictures and attention maps of one prompt."""
    import sd
    from diffusers import DPMSolverMultistepScheduler

    from tests.parity.networks import stable_diffusion_parts

    parts = stable_diffusion_parts(size)
    pipe = sd.StableDiffusionDAAMPipeline(
        **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    pipe.unet.__dict__["in_channels"] = 4
    layers = sd.LAYERS[0:1] + sd.LAYERS[6:13] + sd.LAYERS[15:16]
    values: dict[str, Any] = {"layers": np.array([layer.partition(".transformer_blocks")[0] for layer in layers])}
    with torch.no_grad():
        image = as_tensor(picture("features", 512, 512))[0]
        features = pipe.features(image, 200, layers, (64, 64), generator=torch.Generator().manual_seed(43))
        values |= {
            "features": sample("features", features, 4000),
            "norms": features[0].norm(dim=0).numpy(),
            "channels": features[0].mean(dim=(1, 2)).numpy(),
        }
        print("features", tuple(features.shape), float(features.std()), flush=True)
        del features
        phrase, count = ("chocolate glazed donut", 2) if size == "narrow" else ("cat", 1)
        images, maps = pipe(
            prompt=PROMPT.format(phrase),
            negative_prompt=NEGATIVE,
            token_prompts=[phrase],
            guidance_scale=8.0,
            generator=[torch.Generator().manual_seed(42 + i) for i in range(count)],
            num_inference_steps=2,
            max_iter_to_alter=0,
            num_images_per_prompt=count,
        )
    values |= {"attribution": maps[:, 0].numpy(), "images": sample("images", images, 4000)}
    print("attribution", tuple(maps.shape), float(maps.min()), float(maps.max()), float(images.std()))
    write_golden(f"stable-diffusion-{size}", values)


# --------------------------------------------------------------------------- CLIP and DINO


def clip_model(size: str) -> Any:
    from clip.model import CLIP

    wide = {"embed_dim": 512, "vision_layers": 12, "vision_width": 768, "transformer_width": 512}
    deep = {"transformer_heads": 8, "transformer_layers": 12}
    if size == "narrow":
        wide = {"embed_dim": 32, "vision_layers": 3, "vision_width": 128, "transformer_width": 32}
        deep = {"transformer_heads": 4, "transformer_layers": 2}
    model = CLIP(image_resolution=224, vision_patch_size=16, context_length=77, vocab_size=49408, **wide, **deep)
    fill(model)
    return model


def clip_features(size: str) -> None:
    """Keys and tokens of the second-to-last block, on the grid of the weights and on the one of the method."""
    import clip
    import predict

    values: dict[str, Any] = {}
    with replaced(clip, load=lambda *_args, **_settings: (clip_model(size), None)):
        for facet in ("key", "token"):
            extractor = predict.ViTFeats(-2, facet, device="cpu", model_key="clip_ViT-B/16", stride=None)
            for side in (224, 448):
                with torch.no_grad():
                    features = extractor(as_tensor(picture("features", side, side)))
                print(facet, side, tuple(features.shape), float(features.std()))
                values[f"{facet}_{side}"] = sample(f"clip/{facet}/{side}", features.permute(2, 0, 1), 3000)
                values[f"{facet}_{side}_norms"] = features.norm(dim=-1).numpy()
    write_golden(f"clip-{size}", values)


def dino_model(size: str, dino: Path) -> Any:
    loader = importlib.machinery.SourceFileLoader("dino_transformer", str(dino / "vision_transformer.py"))
    transformer = types.ModuleType("dino_transformer")
    sys.modules["dino_transformer"] = transformer
    loader.exec_module(transformer)
    wide = {"embed_dim": 768, "depth": 12, "num_heads": 12}
    if size == "narrow":
        wide = {"embed_dim": 48, "depth": 3, "num_heads": 3}
    model = transformer.VisionTransformer(
        patch_size=8,
        mlp_ratio=4,
        qkv_bias=True,
        norm_layer=lambda width: torch.nn.LayerNorm(width, eps=1e-6),
        **wide,
    )
    fill(model)
    return model


def dino_features(size: str, dino: Path) -> None:
    """Keys of the last block."""
    import predict

    values: dict[str, Any] = {}
    with replaced(torch.hub, load=lambda *_args, **_settings: dino_model(size, dino)):
        extractor = predict.ViTFeats(-1, "key", device="cpu", model_key="dino_vitb8", stride=None)
    for side in (224, 448):
        with torch.no_grad():
            features = extractor(as_tensor(picture("features", side, side)))
        print("dino", side, tuple(features.shape), float(features.std()))
        values[f"key_{side}"] = sample(f"dino/key/{side}", features.permute(2, 0, 1), 3000)
        values[f"key_{side}_norms"] = features.norm(dim=-1).numpy()
    write_golden(f"dino-{size}", values)


# --------------------------------------------------------------------------- the class pre-filter

FILTER_NAMES = (
    *("cat", "dog", "potted plant", "airplane", "tree", "bicycle", "sofa", "boat"),
    *("bus", "cow", "table", "horse", "train", "sheep", "bottle", "bird"),
)


def prefilter(size: str) -> None:
    """Which of the classes stay, picture by picture; the cosines of stage 1."""
    import clip
    from utils.clip_class import CLIPClassifierThresh

    values: dict[str, Any] = {}
    count, pictures = (16, 5) if size == "narrow" else (8, 2)
    model = clip_model(size)
    with replaced(clip, load=lambda *_args, **_settings: (model, None)), torch.no_grad():
        for limit in (10, 3):
            filter_ = CLIPClassifierThresh("cpu", list(FILTER_NAMES[:count]), topk=limit)
            kept, cosines = [], []
            for number in range(pictures):
                image = as_tensor(picture(f"prefilter/{number}", 224, 224))
                stays = filter_(image)
                embedding = filter_.clip.clip_model.encode_image(filter_.clip.aug(image))
                embedding = embedding / embedding.norm(dim=-1, keepdim=True)
                scores = (embedding @ filter_.cls_text_emb.T)[0]
                likely = int((scores.softmax(0) >= 1 / count).sum())
                print(number, "likely", likely, "kept", stays)
                kept.append([place in stays for place in range(count)])
                cosines.append(scores.numpy())
            values |= {f"kept_{limit}": np.array(kept), "cosines": np.stack(cosines)}
    write_golden(f"prefilter-{size}", values)


# --------------------------------------------------------------------------- masks


def masks() -> None:
    """The masks that sampling writes: thresholds by Otsu, and from proposals."""
    import sample_support_set
    import sd
    from utils import cutler

    attention = scenes.attention_maps()
    number = iter(range(len(attention)))

    class Proposer(torch.nn.Module):
        def forward(self, _image: Any) -> Any:
            found = torch.from_numpy(scenes.proposals(next(number)))
            return [{"instances": types.SimpleNamespace(pred_masks=found)}]

    def pipe(**_settings: Any) -> Any:
        return torch.zeros(len(attention), 3, scenes.SIZE, scenes.SIZE), torch.from_numpy(attention)[:, None].clone()

    thresholds: list[float] = []
    otsu = sample_support_set.threshold_multiotsu

    arrays: dict[str, Any] = {}
    write = sample_support_set.write_imgs

    def keeping(images: Any, folder: Any, prefix: str = "mask_") -> None:
        arrays[prefix] = images.clone()
        write(images, folder, prefix)

    def remembering(*arguments: Any, **settings: Any) -> Any:
        thresholds[:] = otsu(*arguments, **settings)
        return tuple(thresholds)

    with (
        tempfile.TemporaryDirectory() as folder,
        replaced(cutler, CUTLER=Proposer),
        replaced(sd, build_pipeline=lambda *_args, **_settings: pipe),
        replaced(sample_support_set, threshold_multiotsu=remembering, write_imgs=keeping),
    ):
        call_main(sample_support_set, "voc", folder, "--device", "cpu", "--n", 4, "--bs", 4, "--categories", "cat")
        found = Path(folder) / "cat"

        def read(pattern: str) -> Any:
            files = [found / pattern.format(i) for i in range(len(attention))]
            return np.packbits(np.stack([np.asarray(Image.open(file)) > 127 for file in files]), axis=-1)

        values = {
            "thresholds": np.array(thresholds),
            "attribution": sample("masks", arrays["heatmap_"], 4000),
            "otsu_foreground": read("proc_masks_thresh/fg_{:05d}.png"),
            "otsu_background": read("proc_masks_thresh/bg_{:05d}.png"),
            "foreground": read("proc_masks_cutler_v3/fg_{:05d}.png"),
            "lowest": read("proc_masks_cutler_v3/bg_{:05d}.png"),
            "background": read("proc_masks_cutler_v3/bg_pp_{:05d}.png"),
        }
    write_golden("masks", values)


# --------------------------------------------------------------------------- prototypes

POOLED_CHANNELS = 96


def prototypes() -> None:
    """The prototypes of three support pictures, the last of which has no foreground."""
    import gen_proto_sd
    import sd

    seen = iter(range(9))

    class Pipe:
        device = torch.device("cpu")

        def encode(self, _image: Any, generator: Any) -> Any:
            return None

        def extract_features(self, *_arguments: Any, generator: Any) -> Any:
            return torch.from_numpy(scenes.pooled_features(next(seen), POOLED_CHANNELS))[None]

    with tempfile.TemporaryDirectory() as folder:
        masks = Path(folder) / "cat" / "proc_masks_cutler_v3"
        masks.mkdir(parents=True)
        for i in range(3):
            Image.fromarray(picture("support", 512, 512)).save(Path(folder) / "cat" / f"{i:05d}.png")
            for prefix, mask in zip(("fg", "bg_pp"), scenes.pooled_masks(i), strict=True):
                Image.fromarray(mask.astype(np.uint8) * 255).save(masks / f"{prefix}_{i:05d}.png")
        with replaced(sd, build_pipeline=lambda *_args, **_settings: Pipe()):
            call_main(
                gen_proto_sd,
                *("voc", folder, "sd", "--device", "cpu", "--scan-dir", "--total", 3, "--kmeans", scenes.GROUPS),
            )
        (path,) = (Path(folder) / "cat").glob("*_proto.pt")
        made = torch.load(path)
    names = {
        "proto": "fg_mean",
        "proto_bg": "bg_mean",
        "ind_proto": "fg_instance",
        "ind_proto_bg": "bg_instance",
        "kmeans": "fg_part",
        "kmeans_bg": "bg_part",
    }
    write_golden("prototypes", {name: made[key].numpy() for key, name in names.items()})


# --------------------------------------------------------------------------- scores


class _Pictures:
    """A data set of one picture."""

    def __init__(self, image: Any, answer: list[Any]) -> None:
        self._image = image
        self.dataset = types.SimpleNamespace(evaluate=answer.extend)

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Any:
        if index:
            raise IndexError
        return Image.fromarray(self._image), Image.new("L", self._image.shape[1::-1])


EXTRACTORS = {"sd": (40, 32), "clip": (24, 28)}
"""Channels and grid of two made-up extractors; the published code tells the kind by the name of the file."""


def run_predict(
    image: Any, classes: Sequence[str], shelves: dict[str, dict[str, Any]], features: Callable[..., Any], *extra: object
) -> tuple[Any, Any]:
    """The fused scores at working size and the label map of `predict.main`."""
    import mmdata
    import predict
    from utils import clip_class

    scores: list[Any] = []
    answer: list[Any] = []

    class Extractor(torch.nn.Module):
        def __init__(self, *arguments: Any, **settings: Any) -> None:
            super().__init__()
            # The features of the UNet are made with other arguments than those of transformers.
            self._name = "clip" if "model_key" in settings else "sd"

        def resize(self, crop: Any) -> Any:
            return crop

        def forward(self, crop: Any) -> Any:
            return features(self._name, crop[None])[0].permute(1, 2, 0)

    class Capture(torch.nn.Module):
        def __init__(self, *_settings: Any) -> None:
            super().__init__()

        def forward(self, _image: Any, fused: Any) -> Any:
            scores.append(fused[0].clone())
            return fused

    class OnlyTheFirst:
        """A pre-filter that keeps one of the things; stuff is always kept."""

        def __init__(self, **_settings: Any) -> None:
            pass

        def __call__(self, _image: Any) -> list[int]:
            return [0]

        def update(self, _classes: Any) -> None:
            pass

    names = ("__background__", *classes)
    prompts = dict(zip(names, names, strict=True))
    with (
        tempfile.TemporaryDirectory() as folder,
        replaced(mmdata, get_dataset=lambda *_args, **_settings: (_Pictures(image, answer), names, prompts)),
        replaced(predict, SDFeats=Extractor, ViTFeats=Extractor, PAMR=Capture),
        replaced(clip_class, CLIPClassifierThresh=OnlyTheFirst),
    ):
        files = []
        for extractor, prototypes in shelves.items():
            files.append(Path(folder) / f"{extractor}_proto.pt")
            torch.save({**prototypes, "__layers__": ["layer"]}, files[-1])
        call_main(predict, "voc", folder, "--device", "cpu", "--pamr", "--prots", *files, *extra)
    return scores[0].numpy(), answer[0]


def stored(shelf: scenes.Shelf, role: str, name: str) -> dict[str, Any]:
    """Prototypes under the keys of the published files."""
    keys = {"fg": ("", "_ind", "_kmeans"), "bg": ("_bg", "_bg_ind", "_kmeans_bg")}[role]
    kinds = (shelf.mean, shelf.instance, shelf.part)
    return {name + key: torch.from_numpy(kind) for key, kind in zip(keys, kinds, strict=True)}


def scores() -> None:
    """A photograph with three classes by two extractors, with all classes and with one filtered out."""
    shelves: dict[str, dict[str, Any]] = {}
    for extractor, (channels, _) in EXTRACTORS.items():
        shelves[extractor] = {}
        for name in scenes.CLASSES:
            for role in ("fg", "bg"):
                shelves[extractor] |= stored(scenes.shelf(extractor, name, role, channels), role, name)

    def features(extractor: str, crops: Any) -> Any:
        return scenes.colour_features(crops, extractor, *EXTRACTORS[extractor])

    values = {}
    for mode, extra in (("all", ("--classmode", "all")), ("filtered", ())):
        fused, labels = run_predict(scenes.photo(), scenes.CLASSES, shelves, features, *extra)
        print(mode, fused.shape, fused.min(axis=(1, 2)), fused.max(axis=(1, 2)), np.bincount(labels.ravel()))
        values |= {f"{mode}_scores": sample("scores", fused, 4000), f"{mode}_labels": labels.astype(np.uint8)}
    write_golden("scores", values)


def unet_scores() -> None:
    """Scores of features of Stable Diffusion's true shape: nine layers enlarged and stacked, whole picture only."""
    import sd

    store = sd.FeatStore(None, (64, 64))
    for values in scenes.unet_maps():
        store("layer", values.flatten(2).transpose(1, 2))
    joined = store.get_features()
    prototypes = {}
    for name in scenes.CLASSES[:2]:
        for role in ("fg", "bg"):
            # Pixels of the features themselves, disturbed: cosines that reach far from 0.
            shelf = near_features(joined, f"{name}/{role}")
            prototypes |= stored(shelf, role, name)
    fused, _ = run_predict(
        picture("unet-scores", 448, 448),
        scenes.CLASSES[:2],
        {"sd": prototypes},
        lambda _name, _crops: joined,
        *("--classmode", "all", "--crops", "0"),
    )
    native = F.interpolate(torch.from_numpy(fused)[None], (64, 64), mode="nearest")[0]
    print("unet scores", native.shape, float(native.min()), float(native.max()))
    write_golden("unet-scores", {"scores": sample("unet-scores", fused, 4000)})


def near_features(joined: Any, key: str) -> scenes.Shelf:
    """Prototypes near single cells of a joined feature map (1, D, 64, 64)."""
    cells = (uniform(f"unet/{key}/cells", (8,)) * 64 * 64).astype(np.int64)
    vectors = joined[0].flatten(1)[:, cells].T.numpy() + 0.5 * noise(f"unet/{key}/vectors", (8, joined.shape[1]))
    return scenes.Shelf(*(part.astype(np.float32) for part in (vectors[:1], vectors[1:4], vectors[4:])))


def stuff_filter() -> None:
    """Which background prototypes stay for each thing."""
    import protos

    prototypes = {}
    for name in scenes.CLASSES:
        for role in ("fg", "bg"):
            prototypes |= stored(scenes.shelf("sd", name, role, EXTRACTORS["sd"][0]), role, name)
    vectors, classes, foreground, _ = protos.build_prototypes(
        prototypes, ("__background__", *scenes.CLASSES), "all", filter_bg_thres=0.85, ctx_mode=True
    )
    background = foreground == 0
    write_golden("stuff-filter", {"vectors": vectors[background].numpy(), "classes": classes[background].numpy()})


def pamr() -> None:
    """Scores refined by the picture."""
    from utils.pamr import PAMR

    image = torch.from_numpy(picture("pamr", 41, 53)).permute(2, 0, 1)[None].float()
    coarse = torch.from_numpy(uniform("pamr/scores", (1, 3, 12, 16)))
    before = F.interpolate(coarse, (41, 53), mode="bilinear", align_corners=False)
    write_golden("pamr", {"scores": PAMR(10, [1, 2, 4, 8, 12, 24])(image, before)[0].numpy()})


# --------------------------------------------------------------------------- from file to label map


class _Files:
    """Photographs as files, opened as the data set opens them."""

    def __init__(self, files: Sequence[Path], answers: list[Any]) -> None:
        self._files = files
        self.dataset = types.SimpleNamespace(evaluate=answers.extend)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, place: int) -> tuple[Any, Any]:
        image = Image.open(self._files[place]).convert("RGB")
        return image, Image.new("L", image.size)


def sharp_resize(theirs: Callable[..., Any]) -> Callable[..., Any]:
    """torchvision's `resize` as it was in version 0.13: without antialiasing for tensors."""

    def resize(image: Any, size: Any, *arguments: Any, **settings: Any) -> Any:
        settings["antialias"] = False
        return theirs(image, size, *arguments[:2], **settings)

    return resize


def remembering(forward: Callable[..., Any]) -> Callable[..., Any]:
    """An extractor's `forward` that looks at no crop twice: three runs look at the same ones."""
    known: dict[tuple[str, bytes], Any] = {}

    def once(extractor: Any, crop: Any) -> Any:
        key = (getattr(extractor, "model_key", "sd"), hashlib.sha256(crop.contiguous().numpy().tobytes()).digest())
        if key not in known:
            known[key] = forward(extractor, crop)
        return known[key].clone()

    return once


def labels(dino: Path) -> None:
    """`predict.main` from photographs as files to label maps, with the networks of `file_inputs_ovdiff`.

    Prototypes are features of the photographs themselves at some cells, by the published extractors.
    """
    import clip
    import predict
    import sd
    import torchvision.transforms.functional as transforms
    from diffusers import DPMSolverMultistepScheduler
    from torch.utils.data import DataLoader

    from tests.parity import file_inputs_ovdiff as made
    from tests.parity.file_inputs import write_photographs

    pipeline = sd.StableDiffusionDAAMPipeline(
        **made.sd_parts(), safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.unet.__dict__["in_channels"] = 4
    features = pipeline.features
    pipeline.features = lambda *arguments: features(
        *arguments, generator=torch.Generator().manual_seed(made.NOISE_SEED)
    )
    layers = sd.LAYERS[0:1] + sd.LAYERS[6:13] + sd.LAYERS[15:16]
    with (
        tempfile.TemporaryDirectory() as name,
        replaced(sd, build_pipeline=lambda *_arguments, **_settings: pipeline),
        replaced(clip, load=lambda *_arguments, **_settings: (clip_model("narrow"), None)),
        replaced(torch.hub, load=lambda *_arguments, **_settings: dino_model("narrow", dino)),
        replaced(transforms, resize=sharp_resize(transforms.resize)),
        replaced(predict.SDFeats, forward=remembering(predict.SDFeats.forward)),
        replaced(predict.ViTFeats, forward=remembering(predict.ViTFeats.forward)),
        replaced(torch.utils.data, DataLoader=lambda pictures, **_settings: DataLoader(pictures)),
        torch.no_grad(),
    ):
        folder = Path(name)
        files = write_photographs(folder)
        extractors = {
            "sd": predict.SDFeats((64, 64), layers, 200),
            "clip": predict.ViTFeats(-2, "key", model_key="clip_ViT-B/16"),
            "dino": predict.ViTFeats(-1, "key", model_key="dino_vitb8"),
        }
        values: dict[str, Any] = {}
        proto_files = []
        for kind, extractor in extractors.items():
            seen = []
            for file in files.values():
                picture_ = transforms.resize(Image.open(file), 448, interpolation=transforms.InterpolationMode.LANCZOS)
                crop = torch.from_numpy(np.array(picture_)).permute(2, 0, 1)[:, -448:, -448:].float() / 255
                seen.append(extractor(extractor.resize(crop[None])[0]).flatten(0, 1).numpy())
            cells = np.concatenate(seen)
            prototypes: dict[str, Any] = {"__layers__": layers}
            for class_name in made.CLASSES:
                for role in ("fg", "bg"):
                    places = (uniform(f"labels/{kind}/{class_name}/{role}", (8,)) * len(cells)).astype(np.int64)
                    values[f"{kind}-{class_name}-{role}"] = vectors = cells[places].astype(np.float32)
                    shelf = scenes.Shelf(vectors[:1], vectors[1:4], vectors[4:])
                    prototypes |= stored(shelf, role, class_name)
            proto_files.append(folder / f"{'dino_vitb8' if kind == 'dino' else kind}_proto.pt")
            torch.save(prototypes, proto_files[-1])
        names = ("__background__", *made.CLASSES)
        for case, extra in (("all", ("--classmode", "all")), ("filtered", ()), ("pamr", ("--pamr",))):
            answers: list[Any] = []
            stays: list[Any] = []
            given = (_Files(list(files.values()), answers), names, dict(zip(names, names, strict=True)))
            with (
                replaced(predict.mmdata, get_dataset=lambda *_arguments, given=given, **_settings: given),
                replaced(
                    predict.clip_class.CLIPClassifierThresh,
                    update=lambda _self, kept, stays=stays: stays.append(list(kept)),
                ),
            ):
                call_main(predict, "voc", folder, "--device", "cpu", "--prots", *proto_files, *extra)
            for photograph, found in zip(files, answers, strict=True):
                values[f"{case}-{photograph}"] = found.astype(np.uint8)
                print(case, photograph, found.shape, np.bincount(found.ravel()), flush=True)
            print("kept", stays)
    write_golden("labels-ovdiff", values)


def main() -> None:
    parser = argparse.ArgumentParser()
    pieces: dict[str, Callable[[], None]] = {
        "masks": masks,
        "prototypes": prototypes,
        "scores": scores,
        "unet-scores": unet_scores,
        "stuff-filter": stuff_filter,
        "pamr": pamr,
        "labels": lambda: labels(arguments.dino),
    }
    for size in ("narrow", "true"):
        pieces |= {
            f"stable-diffusion-{size}": lambda size=size: stable_diffusion(size),
            f"clip-{size}": lambda size=size: clip_features(size),
            f"dino-{size}": lambda size=size: dino_features(size, arguments.dino),
            f"prefilter-{size}": lambda size=size: prefilter(size),
        }
    parser.add_argument("pieces", nargs="+", choices=list(pieces))
    for name in ("sdov", "clip", "dino"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    arguments = parser.parse_args()
    make_importable(arguments.sdov, arguments.clip)
    for piece in arguments.pieces:
        pieces[piece]()
        print("made", piece, flush=True)


if __name__ == "__main__":
    main()
