"""What tells pictures of the pictogram world from photographs: fitted once, kept beside the models.

    python -m examples.mini_pack.domain ovseg_cli/profiles/mini

writes ``domain/domain.safetensors`` into a pack: a linear classifier of CLIP's patch tokens (see
`ovseg_cli.methods.domain`), fitted to rendered scenes on one side and to photographs that scikit-image and scikit-learn
bring along on the other. Its bias is set on further scenes, so that 1.5 % of them are called unfamiliar.
`examples.mini_pack.evaluate --what unfamiliar` measures it on other scenes, and on each photograph by a classifier that
was fitted without it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from examples.mini_pack.glyphs import GlyphSet
from examples.mini_pack.pack import MINI, pack_profile
from examples.mini_pack.training import Clock, Stopped
from examples.mini_pack.vocabulary import THING_NAMES
from examples.mini_pack.world import World
from examples.pictograms.scenes import Part, render_set
from ovseg_cli.atomic import atomic_path
from ovseg_cli.backbones.pixels import to_working_tensor
from ovseg_cli.methods.domain import DOMAIN_FILE, domain_tokens, look, write_domain
from ovseg_cli.models import Models, load_models
from ovseg_cli.profiles.specs import DomainSpec, bundled_revision

PHOTOGRAPHS: Final = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "chelsea.png",
    "clock_motion.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "moon.png",
    "motorcycle_left.png",
    "retina.jpg",
    "rocket.jpg",
)
"""Of scikit-image; with these go both of scikit-learn's."""

CROPS: Final = 16
"""Parts of each photograph that the classifier is fitted to."""
SCENES: Final = 400
"""Small scenes, as in training, that it is fitted to, and as many larger pictures; half of that for calibration."""
SIZES: Final = ((256, 192), (128, 96), (512, 384), (240, 320))
"""(width, height) of the larger pictures."""
FALSE_ALARMS: Final = 0.015
"""Share of the scenes for calibration that are called unfamiliar."""
STRENGTH: Final = 0.1
"""Inverse strength of the regularisation."""

_FIT_SEED: Final = 61_000_000
_CALIBRATION_SEED: Final = 62_000_000
_PARTS_SEED: Final = 0
_LARGEST: Final = 640


def photographs() -> list[Image.Image]:
    """The photographs that the classifier is fitted to."""
    import skimage
    from sklearn.datasets import load_sample_images

    folder = Path(skimage.__file__).parent / "data"
    return [
        *(Image.open(folder / name).convert("RGB") for name in PHOTOGRAPHS),
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


def tokens(models: Models, spec: DomainSpec, images: Iterable[Image.Image]) -> npt.NDArray[np.float32]:
    """What the classifier sees of pictures, float32 (N, D)."""
    rows = []
    for image in images:
        size = spec.working_size(image.height, image.width)
        pixels = to_working_tensor(image, size, models.device, spec.resample)
        rows.append(domain_tokens(models.clip, models.profile.clip, spec, pixels).cpu().numpy())
    return np.concatenate(rows)


@dataclass(frozen=True, slots=True)
class Seen:
    """What the classifier is made of, each row the tokens of one picture.

    Attributes:
        scenes: float32 (N, D), of the pictogram world.
        photographs: For each photograph float32 (`CROPS`, D), of its parts.
        calibration: float32 (M, D), of other scenes.
    """

    scenes: npt.NDArray[np.float32]
    photographs: Sequence[npt.NDArray[np.float32]]
    calibration: npt.NDArray[np.float32]


def write_pictures(folder: Path, glyphs: GlyphSet, *, scenes: int = SCENES, clock: Clock | None = None) -> None:
    """Render the scenes that the classifier is made of into a folder, which takes a core two minutes.

    Args:
        folder: Gets ``fit`` and ``calibration``.
        glyphs: Where the objects come from.
        scenes: See `SCENES`; at least 8.
        clock: When to stop; None for never.

    Raises:
        Stopped: If the clock ran out.
    """
    for name, count, seed in (("fit", scenes, _FIT_SEED), ("calibration", scenes // 2, _CALIBRATION_SEED)):
        (folder / name).mkdir(parents=True)
        for index, image in enumerate(rendered(glyphs, count, seed)):
            if clock is not None and clock.spent:
                raise Stopped("pictures: stopped; the same command renders them again")
            image.save(folder / name / f"{index:05d}.png", compress_level=1)


def look_at_all(models: Models, spec: DomainSpec, pictures: Path, *, crops: int = CROPS) -> Seen:
    """Show CLIP everything that the classifier is made of.

    Args:
        models: Of the pack.
        spec: What is looked at.
        pictures: What `write_pictures` wrote.
        crops: See `CROPS`.
    """
    rng = np.random.default_rng(_PARTS_SEED)

    def scenes(name: str) -> npt.NDArray[np.float32]:
        return tokens(models, spec, (Image.open(file) for file in sorted((pictures / name).iterdir())))

    return Seen(
        scenes=scenes("fit"),
        photographs=[tokens(models, spec, parts(one, crops, rng)) for one in photographs()],
        calibration=scenes("calibration"),
    )


def fit(seen: Seen) -> tuple[npt.NDArray[np.float64], float]:
    """The classifier's weights (D,) and its bias: above 0 a picture is unfamiliar."""
    from sklearn.linear_model import LogisticRegression

    others = np.concatenate(seen.photographs)
    rows = np.concatenate([seen.scenes, others]).astype(np.float64)
    centre, scale = rows.mean(0), rows.std(0)
    model = LogisticRegression(C=STRENGTH, class_weight="balanced", max_iter=3000)
    model.fit((rows - centre) / scale, np.repeat((0, 1), (len(seen.scenes), len(others))))
    weight = model.coef_[0] / scale
    return weight, -float(np.quantile(seen.calibration @ weight, 1 - FALSE_ALARMS))


def add_domain(pack: Path, pictures: Path, *, device: str = "cpu", crops: int = CROPS) -> Path:
    """Fit the classifier of a pack and write it into the pack.

    Args:
        pack: Laid out like ``ovseg_cli/profiles/mini``.
        pictures: What `write_pictures` wrote.
        device: Where CLIP looks at the pictures.
        crops: See `CROPS`.

    Returns:
        The file.
    """
    models = load_models(pack_profile(pack), device=device)
    spec = MINI.domain
    if spec is None:
        raise ValueError(f"the profile {MINI.name!r} knows photographs")
    weight, bias = fit(look_at_all(models, spec, pictures, crops=crops))
    folder = pack / "domain"
    folder.mkdir(exist_ok=True)
    with atomic_path(folder / DOMAIN_FILE) as part:
        write_domain(part, torch.from_numpy(weight), bias, look(models.profile.clip, spec))
    return folder / DOMAIN_FILE


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = argparse.ArgumentParser(description="Fit what tells pictures of the pictogram world from photographs.")
    parser.add_argument("pack", type=Path, help="folder laid out like ovseg_cli/profiles/mini")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        write_pictures(Path(folder), GlyphSet())
        file = add_domain(options.pack, Path(folder))
    print(f"{file}: revision {bundled_revision(file.parent)}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
