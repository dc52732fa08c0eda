"""What has been published about the methods: mIoU by data set and backbone, and the licence of their code.

Each figure was read in the source that it names. A paper's own figure and one that another paper reports are different
things, so a source that only repeats a figure says so. Figures that could not be read anywhere are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from ovseg_cli.profiles.specs import Profile


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """One published figure.

    Attributes:
        method: The method, as `ovseg methods` calls it.
        dataset: The data set, as `--settings` and `--dataset` call it, or "cityscapes27", with 27 of its classes.
        backbone: The networks that made it.
        miou: Percent, as printed.
        protocol: How it was measured.
        source: Where it was read.
        large: Whether CLIP is a ViT-L, as `ClipSpec.large` has it.
    """

    method: str
    dataset: str
    backbone: str
    miou: float
    protocol: str
    source: str
    large: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedCode:
    """The code that a method's authors have published. ovseg's own is written from the papers.

    Attributes:
        repository: Where it is.
        licence: Of the code, as the repository says; "none found" where it says nothing.
    """

    repository: str
    licence: str


_BG: Final = ("voc21", "context60", "coco-object")
_FG: Final = ("voc20", "context59", "coco-stuff", "ade150")
_SEVEN: Final = (*_BG, *_FG)

_MMSEG: Final = "validation split, mmsegmentation: short side 336 (COCO-Stuff 448, Cityscapes 560), windows 224/112"
_NACLIP: Final = "as SCLIP, after PAMR"
_CLEAR: Final = "validation split, mmsegmentation: short side 448, windows 448/224"
_PROXY: Final = "validation split, mmsegmentation: short side 336, windows 336/112, DINO ViT-B/8"
_CLIPER: Final = (
    "validation split, short side 336, whole pictures; mIoU over classes in the truth; COCO-Object: 5,000 pictures of "
    "COCO 2014"
)
_LE: Final = "validation split, truth and prediction at 320 x 320; VOC with background, Context without"
_CLIPER_PAPER: Final = "CLIPer's paper, table 1"
_CLIPER_README: Final = "README of linsun449/cliper.code at c05fa41"
_LE_TABLE: Final = "Le (EPFL 2023), table 4"
_REPEATED: Final = ", which repeats it"


def _row(
    method: str,
    backbone: str,
    figures: str,
    protocol: str,
    source: str,
    datasets: Sequence[str] = _SEVEN,
    *,
    large: bool = False,
) -> Iterator[Published]:
    """The figures of one row of a table; a dash where it has none."""
    for dataset, figure in zip(datasets, figures.split(), strict=True):
        if figure != "-":
            yield Published(
                method=method,
                dataset=dataset,
                backbone=backbone,
                miou=float(figure),
                protocol=protocol,
                source=source,
                large=large,
            )


_B, _L = "CLIP ViT-B/16", "CLIP ViT-L/14"
_META = "MetaCLIP ViT-B/16"
_CITY = ("cityscapes",)
_EIGHT = (*_SEVEN, "cityscapes")
_LE_SETS = ("voc21", "context59", "coco-stuff27", "cityscapes27")

PUBLISHED: Final[tuple[Published, ...]] = (
    *_row(
        "prototype",
        "Stable Diffusion 1.5, CLIP ViT-B/16, DINO ViT-B/8",
        "66.3 29.7 34.6",
        "validation split, short side 448, windows 448/224 and 336/224, and whole; 32 pictures a class, CutLER's masks",
        "OVDiff's supplement, table A.4 (over seeds: ±0.2, ±0.3, ±0.3)",
        _BG,
    ),
    *_row("maskclip", _B, "38.8 23.6 20.6 74.9 26.4 16.4 9.8", _CLEAR, _CLIPER_PAPER + _REPEATED),
    *_row("maskclip", _L, "23.3 11.7 7.2 29.4 12.4 8.8 7.2", _CLEAR, _CLIPER_PAPER + _REPEATED, large=True),
    *_row(
        "clipsurgery",
        _B,
        "41.2 29.3 31.4",
        "validation split, whole pictures",
        _LE_TABLE + _REPEATED,
        ("voc21", "context59", "cityscapes"),
    ),
    *_row("clipsurgery", _B, "21.9", "validation split, whole pictures", _CLIPER_PAPER + _REPEATED, ("coco-stuff",)),
    *_row(
        "sclip",
        _B,
        "59.63 31.74 33.52 81.54 34.46 22.77 16.45 32.34",
        _MMSEG,
        "README of wangf3014/SCLIP at b56bd30",
        _EIGHT,
    ),
    *_row("sclip", _L, "43.5 22.3 25.0 69.1 25.2 17.6 10.9", _MMSEG, _CLIPER_PAPER + _REPEATED, large=True),
    *_row("clearclip", _B, "51.8 32.6 33.0 80.9 35.9 23.9 16.7", _CLEAR, _CLIPER_PAPER + _REPEATED),
    *_row("clearclip", _B, "30.0", _CLEAR, "ConceptBank's table 1" + _REPEATED, _CITY),
    *_row("clearclip", _L, "46.1 26.7 30.1 80.0 29.6 19.9 15.0", _CLEAR, _CLIPER_PAPER + _REPEATED, large=True),
    *_row(
        "naclip",
        _B,
        "64.07 34.99 36.19 83.03 38.35 25.69 19.05 38.27",
        _NACLIP,
        "README of sinahmr/NACLIP at 0cac3a6",
        _EIGHT,
    ),
    *_row(
        "gem",
        _B,
        "46.2 32.6",
        "validation split, 448 x 448, one prompt",
        "ConceptBank's table 1" + _REPEATED,
        ("voc21", "context59"),
    ),
    *_row(
        "gem",
        _META,
        "46.8 34.5",
        "validation split, 448 x 448, one prompt",
        _LE_TABLE + _REPEATED,
        ("voc21", "context59"),
    ),
    *_row("gem", f"{_META}, Le's own GEM", "55.7 37.3 38.2 10.4", _LE, _LE_TABLE, _LE_SETS),
    *_row("proxyclip", _B, "61.3 35.3 37.5 80.3 39.1 26.5 20.2", _PROXY, _CLIPER_PAPER + _REPEATED),
    *_row("proxyclip", _L, "60.6 34.5 39.2 83.2 37.7 25.6 22.6", _PROXY, _CLIPER_PAPER + _REPEATED, large=True),
    *_row("cliper-coarse", _B, "60.7 34.7 36.3 84.3 38.4 25.4 19.8 35.9", _CLIPER, _CLIPER_README, _EIGHT),
    *_row("cliper-coarse", _L, "62.5 34.8 40.4 88.7 39.6 26.3 22.1 37.9", _CLIPER, _CLIPER_README, _EIGHT, large=True),
    *_row(
        "cliper",
        f"{_B}, Stable Diffusion 2.1",
        "66.4 37.5 39.2 85.5 41.6 27.6 21.5 37.0",
        _CLIPER,
        _CLIPER_README,
        _EIGHT,
    ),
    *_row(
        "cliper",
        f"{_L}, Stable Diffusion 2.1",
        "71.6 39.0 44.4 90.3 44.0 29.7 24.5 41.6",
        _CLIPER,
        _CLIPER_README,
        _EIGHT,
        large=True,
    ),
    *_row("agggem", f"{_META}, Stable Diffusion 1.5", "56.7 38.6 39.6 7.5", _LE, _LE_TABLE, _LE_SETS),
    *_row("diffsegclust", f"{_META}, Stable Diffusion 1.5", "56.0 37.4 38.7 7.6", _LE, _LE_TABLE, _LE_SETS),
    *_row("specclust", f"{_META}, Stable Diffusion 1.5", "57.1 38.3 39.3 8.3", _LE, _LE_TABLE, _LE_SETS),
    *_row(
        "diffseg",
        "Stable Diffusion 1.4",
        "43.6 21.2",
        "validation split, middle squares of 512 x 512; the truth names each picture's regions, so it is an oracle",
        _LE_TABLE + _REPEATED,
        ("coco-stuff27", "cityscapes27"),
    ),
    *_row(
        "aggsd",
        "Stable Diffusion 1.5",
        "58.3 45.1 36.4 11.2",
        f"{_LE}; told which classes each picture shows, so it is an oracle",
        _LE_TABLE,
        _LE_SETS,
    ),
    *_row(
        "diffsegmenter",
        "Stable Diffusion 1.5",
        "60.1 27.5",
        "validation split, 512 x 512, classes of each picture by CLIP and BLIP",
        _LE_TABLE + _REPEATED,
        ("voc21", "context60"),
    ),
)
"""Every figure, those of one method and data set with the method's own or newest source first."""

CODE: Final[Mapping[str, PublishedCode]] = MappingProxyType(
    {
        method: PublishedCode(repository=repository, licence=licence)
        for methods, repository, licence in (
            (("prototype",), "karazijal/sdov", "none found"),
            (("maskclip",), "chongzhou96/MaskCLIP", "not looked up"),
            (("clipsurgery",), "xmed-lab/CLIP_Surgery", "none found"),
            (("sclip",), "wangf3014/SCLIP", "none found"),
            (("clearclip",), "mc-lan/ClearCLIP", "NTU S-Lab License 1.0 (non-commercial)"),
            (("naclip",), "sinahmr/NACLIP", "MIT"),
            (("gem",), "WalBouss/GEM", "MIT"),
            (("proxyclip",), "mc-lan/ProxyCLIP", "NTU S-Lab License 1.0 (non-commercial)"),
            (("cliper", "cliper-coarse"), "linsun449/cliper.code", "none found"),
            (("agggem", "diffsegclust", "specclust", "aggsd"), "sonalexle/langseg", "none found"),
            (("diffseg",), "google/diffseg", "MIT"),
            (("diffsegmenter",), "VCG-team/DiffSegmenter", "none found"),
        )
        for method in methods
    }
)
"""The published code of methods, where there is some."""


def published_results(method: str, dataset: str, profile: Profile | None = None) -> tuple[Published, ...]:
    """What has been published of a method on a data set, the nearest to a profile first.

    Args:
        method: A method's name.
        dataset: As `Published` has it.
        profile: Its size of CLIP (ViT-B or ViT-L) is what a figure has to have; of all sizes where None.

    Returns:
        The figures; empty where nothing was published, or not for this size.
    """
    found = [result for result in PUBLISHED if (result.method, result.dataset) == (method, dataset)]
    if profile is None:
        return tuple(found)
    meta = "metaclip" in profile.clip.weights.model_id.lower()
    fitting = [result for result in found if result.large == profile.clip.large]
    return tuple(sorted(fitting, key=lambda result: ("MetaCLIP" in result.backbone) != meta))
