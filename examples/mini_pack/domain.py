"""What tells pictures of the pictogram world from photographs: fitted once, kept beside the models.

    python -m examples.mini_pack.domain ovseg_cli/profiles/mini

writes ``domain/domain.safetensors`` into a pack: a linear classifier of CLIP's patch tokens (see
`ovseg_cli.methods.domain`), fitted to rendered scenes on one side and to photographs that scikit-image and scikit-learn
bring along on the other. Its bias is set on further scenes, so that one in a hundred of them is called unfamiliar.
`examples.mini_pack.evaluate --what unfamiliar` measures it on other scenes and other photographs.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from examples.mini_pack.glyphs import GlyphSet
from examples.mini_pack.vocabulary import THING_NAMES
from examples.mini_pack.world import World
from examples.pictograms.scenes import Part, render_set
from ovseg_cli.backbones.pixels import to_working_tensor
from ovseg_cli.files.atomic import atomic_path
from ovseg_cli.labeling.windows import short_side_size
from ovseg_cli.methods.domain import DOMAIN_FILE, domain_tokens, look, write_domain
from ovseg_cli.models import Models, load_models
from ovseg_cli.profiles import get_profile
from ovseg_cli.profiles.specs import DomainSpec, bundled_revision

MINI: Final = get_profile("mini")

FITTED_PHOTOGRAPHS: Final = (
    "brick.png",
    "clock_motion.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "ihc.png",
    "moon.png",
    "motorcycle_left.png",
    "retina.jpg",
)
"""Of scikit-image; with these go both of scikit-learn's."""
HELD_PHOTOGRAPHS: Final = (
    "astronaut.png",
    "camera.png",
    "chelsea.png",
    "coffee.png",
    "hubble_deep_field.jpg",
    "rocket.jpg",
)
"""Of scikit-image, for measuring: nothing is fitted to them."""

CROPS: Final = 24
"""Parts of each photograph that the classifier is fitted to."""
SCENES: Final = 400
"""Small scenes, as in training, that it is fitted to; and as many larger pictures."""
SIZES: Final = ((256, 192), (128, 96), (512, 384), (240, 320))
"""(width, height) of the larger pictures."""
FALSE_ALARMS: Final = 0.01
"""Share of the scenes for calibration that are called unfamiliar."""
STRENGTH: Final = 0.03
"""Inverse strength of the regularisation."""

_FIT_SEED: Final = 60_000_000
_CALIBRATION_SEED: Final = 61_000_000
_LARGEST: Final = 640


def scikit_image_photographs(names: Sequence[str]) -> list[Image.Image]:
    """Photographs that scikit-image brings along, by the names of their files."""
    import skimage

    folder = Path(skimage.__file__).parent / "data"
    return [Image.open(folder / name).convert("RGB") for name in names]


def fitted_photographs() -> list[Image.Image]:
    """The photographs that the classifier is fitted to."""
    from sklearn.datasets import load_sample_images

    return [
        *scikit_image_photographs(FITTED_PHOTOGRAPHS),
        *(Image.fromarray(image) for image in load_sample_images().images),
    ]


def parts(photograph: Image.Image, count: int, rng: np.random.Generator) -> Iterator[Image.Image]:
    """Parts of a photograph, each between a third and the whole of its sides, at most `_LARGEST` pixels long."""
    for _ in range(count):
        share = rng.uniform(1 / 3, 1)
        width, height = (max(1, round(share * side)) for side in photograph.size)
        left = int(rng.integers(photograph.width - width + 1))
        top = int(rng.integers(photograph.height - height + 1))
        part = photograph.crop((left, top, left + width, top + height))
        part.thumbnail((_LARGEST, _LARGEST))
        yield part


def rendered(glyphs: GlyphSet, count: int, seed: int) -> Iterator[Image.Image]:
    """Small scenes and, as many, larger pictures of the pictogram world.

    Args:
        glyphs: Where the objects come from.
        count: How many of each.
        seed: Decides all of them.
    """
    world = World(glyphs, bank_seed=seed)
    yield from (Image.fromarray(world.scene(seed + index, captions=0).image) for index in range(count))
    for place, (width, height) in enumerate(SIZES):
        share = Part(count // len(SIZES), THING_NAMES)
        pictures = render_set(glyphs, [share], seed + place, width=width, height=height)
        yield from (Image.fromarray(picture.image) for picture in pictures)


def handled(images: Iterable[Image.Image], rng: np.random.Generator) -> Iterator[Image.Image]:
    """The same pictures, half of them compressed and some grey, so that neither tells one kind from the other."""
    for image in images:
        shown = image
        if rng.random() < 0.15:
            shown = shown.convert("L").convert("RGB")
        if rng.random() < 0.5:
            file = io.BytesIO()
            shown.save(file, "JPEG", quality=int(rng.integers(40, 96)))
            shown = Image.open(file).convert("RGB")
        yield shown


def tokens(models: Models, spec: DomainSpec, images: Iterable[Image.Image]) -> npt.NDArray[np.float32]:
    """What the classifier sees of pictures, float32 (N, D)."""
    rows = []
    for image in images:
        size = short_side_size(image.height, image.width, spec.short_side)
        pixels = to_working_tensor(image, size, models.device)
        rows.append(domain_tokens(models.clip, models.profile.clip, spec, pixels).cpu().numpy())
    return np.concatenate(rows)


def fit(models: Models, spec: DomainSpec, glyphs: GlyphSet) -> tuple[npt.NDArray[np.float64], float]:
    """The classifier's weights and its bias: above 0 a picture is unfamiliar."""
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(_FIT_SEED)
    scenes = tokens(models, spec, handled(rendered(glyphs, SCENES, _FIT_SEED), rng))
    photographs = (part for photograph in fitted_photographs() for part in parts(photograph, CROPS, rng))
    others = tokens(models, spec, handled(photographs, rng))
    seen = np.concatenate([scenes, others]).astype(np.float64)
    centre, scale = seen.mean(0), seen.std(0)
    model = LogisticRegression(C=STRENGTH, class_weight="balanced", max_iter=3000)
    model.fit((seen - centre) / scale, np.repeat((0, 1), (len(scenes), len(others))))
    weight = model.coef_[0] / scale
    calibration = tokens(models, spec, rendered(glyphs, SCENES, _CALIBRATION_SEED))
    return weight, -float(np.quantile(calibration @ weight, 1 - FALSE_ALARMS))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    from examples.mini_pack.evaluate import pack_profile  # which measures with what is here

    parser = argparse.ArgumentParser(description="Fit what tells pictures of the pictogram world from photographs.")
    parser.add_argument("pack", type=Path, help="folder laid out like ovseg_cli/profiles/mini")
    options = parser.parse_args(argv)
    models = load_models(pack_profile(options.pack), device="cpu", offline=True)
    spec = MINI.domain
    if spec is None:
        raise ValueError(f"the profile {MINI.name!r} knows photographs")
    weight, bias = fit(models, spec, GlyphSet())
    folder = options.pack / "domain"
    folder.mkdir(exist_ok=True)
    with atomic_path(folder / DOMAIN_FILE) as part:
        write_domain(part, torch.from_numpy(weight), bias, look(models.profile.clip, spec))
    print(f"{folder / DOMAIN_FILE}: revision {bundled_revision(folder)}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
