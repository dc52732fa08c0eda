"""The data sets that open-vocabulary segmentation is measured on, with the protocols of its papers.

Ids, names and counts are facts of the data sets; where each was read stands beside it. A method's published settings
have the same names (`ovseg_cli.methods.published`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from ovseg_cli.errors import UsageError
from ovseg_cli.evaluation.datasets.record import Dataset, Layout, Names, Split
from ovseg_cli.evaluation.datasets.tables import table
from ovseg_cli.methods.background import (
    CLIPER_OBJECT_WORDS,
    CLIPER_VOC_WORDS,
    ONE_WORD,
    PROXYCLIP_OBJECT_WORDS,
    SCLIP_WORDS,
)
from ovseg_cli.names import did_you_mean, shown_name

__all__ = ["DATASETS", "find_dataset"]

BACKGROUND = "background"
VOID = "void"

# --------------------------------------------------------------------------- names

_VOC = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "dining table", "dog"),
    *("horse", "motorbike", "person", "potted plant", "sheep", "sofa", "train", "tv monitor"),
)
_CONTEXT = (
    *("aeroplane", "bag", "bed", "bedclothes", "bench", "bicycle", "bird", "boat", "book", "bottle", "building", "bus"),
    *("cabinet", "car", "cat", "ceiling", "chair", "cloth", "computer", "cow", "cup", "curtain", "dog", "door"),
    *("fence", "floor", "flower", "food", "grass", "ground", "horse", "keyboard", "light", "motorbike", "mountain"),
    *("mouse", "person", "plate", "platform", "potted plant", "road", "rock", "sheep", "shelves", "sidewalk", "sign"),
    *("sky", "snow", "sofa", "table", "track", "train", "tree", "truck", "tv monitor", "wall", "water", "window"),
    "wood",
)
_CONTEXT_IDS = (
    *(2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104, 105, 113, 115, 144, 158, 159),
    *(162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295, 296, 308, 324, 326, 347, 349, 354, 355, 360, 366, 368),
    *(397, 415, 416, 420, 424, 427, 440, 445, 454, 458),
)
# Their ids among the 459: open-mmlab/mmsegmentation tools/dataset_converters/pascal_context.py.
_CITYSCAPES = (
    *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation"),
    *("terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
)
_CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
# Their labelIds: mcordts/cityscapesScripts cityscapesscripts/helpers/labels.py.


def _told_apart(classes: Sequence[tuple[str, ...]]) -> tuple[tuple[str, ...], ...]:
    """The words of classes, the name of each first: ten of ADE20K's 847 begin with a word that another begins with.

    That word is the name of the class that has no other, else of the first.
    """
    count = Counter(words[0] for words in classes)
    alone = {words[0] for words in classes if len(words) == 1}
    taken: set[str] = set()
    found = []
    for words in classes:
        name = words[0]
        if count[name] > 1 and len(words) > 1 and (name in alone or name in taken):
            name = next(word for word in words if count[word] == 0 and word not in taken)
        taken.add(name)
        found.append((name, *(word for word in words if word != name)))
    return tuple(found)


_COCO = tuple((index, fields[0], fields[1]) for index, fields in table("coco-stuff"))
_STUFF = tuple(name for _, name, _ in _COCO)
_OBJECT = _STUFF[:80]
_MERGED = (
    *("electronic", "appliance", "food things", "furniture things", "indoor", "kitchen", "accessory", "animal"),
    *("outdoor", "person", "sports", "vehicle", "ceiling", "floor", "food stuff", "furniture stuff", "raw material"),
    *("textile", "wall", "window", "building", "ground", "plant", "sky", "solid", "structural", "water"),
)
_ADE150 = tuple(fields[0] for _, fields in table("ade150"))
_ADE847 = _told_apart([tuple(fields[0].split("; ")) for _, fields in table("ade847")])
_CONTEXT459 = tuple(fields[0] for _, fields in table("context459"))

_PERSONS = ("person", *(f"person in {what}" for what in ("shirt", "jeans", "dress", "sweater", "skirt", "jacket")))
_SCREENS = ("television monitor", "tv monitor", "monitor", "television", "screen")
_PEOPLE = ("person with cloth people human",)


def _words(
    names: Iterable[str], renamed: Mapping[str, Sequence[str]] = MappingProxyType({}), *, joined: bool = False
) -> tuple[tuple[str, ...], ...]:
    """The words of classes: some by others, the rest by their names, with the blanks taken out where `joined`."""
    return tuple(
        tuple(renamed[name]) if name in renamed else (name.replace(" ", "") if joined else name,) for name in names
    )


def _default(names: Iterable[str], file: str) -> Names:
    return Names(paper="own names, words apart", file=file, words=_words(names))


def _published(
    names: Iterable[str],
    of: Mapping[str, tuple[str, tuple[str, ...], str, Mapping[str, Sequence[str]], tuple[str, ...]]],
    *,
    joined: bool = True,
) -> dict[str, Names]:
    """The names of papers: by key, (paper, methods, file, other words of classes, background words)."""
    names = tuple(names)
    return {
        key: Names(
            paper=paper,
            methods=methods,
            file=file,
            words=_words(names, renamed, joined=joined),
            background_words=background,
        )
        for key, (paper, methods, file, renamed, background) in of.items()
    }


_SHIP = {"boat": ("ship",), "dining table": ("table",)}


def _voc_names(number: int) -> dict[str, Names]:
    background = number == 21

    def words(those: tuple[str, ...]) -> tuple[str, ...]:
        return those if background else ()

    file = f"configs/cls_voc{number}.txt"
    return {
        "default": _default(_VOC, "open-mmlab/mmsegmentation mmseg/datasets/voc.py"),
        "mmsegmentation": Names(
            paper="mmsegmentation; CAT-Seg (datasets/voc20.json)",
            file="open-mmlab/mmsegmentation mmseg/datasets/voc.py",
            words=_words(_VOC, joined=True),
        ),
        **_published(
            _VOC,
            {
                "sclip": (
                    *("SCLIP, NACLIP", ("sclip", "naclip"), f"wangf3014/SCLIP {file}"),
                    {**_SHIP, "person": _PERSONS, "tv monitor": _SCREENS},
                    words(SCLIP_WORDS),
                ),
                "clearclip": ("ClearCLIP", ("clearclip",), f"mc-lan/ClearCLIP {file}", _SHIP, words(ONE_WORD)),
                "proxyclip": ("ProxyCLIP", ("proxyclip",), f"mc-lan/ProxyCLIP {file}", _SHIP, words(SCLIP_WORDS)),
                "cliper": (
                    *("CLIPer", ("cliper",), "linsun449/cliper.code data/voc/cls_voc21.txt"),
                    {
                        "bird": ("bird avian",),
                        "chair": ("chair seat",),
                        "person": ("person with clothes", "people", "human"),
                        "tv monitor": ("tvmonitor screen",),
                    },
                    CLIPER_VOC_WORDS,
                ),
            },
        ),
    }


def _context_names(number: int) -> dict[str, Names]:
    words = ONE_WORD if number == 60 else ()
    file = f"configs/cls_context{number}.txt"
    return {
        "default": _default(_CONTEXT, "open-mmlab/mmsegmentation mmseg/datasets/pascal_context.py"),
        "mmsegmentation": Names(
            paper="mmsegmentation; SCLIP, NACLIP, ClearCLIP, ProxyCLIP (configs/cls_context*.txt)",
            file=f"wangf3014/SCLIP {file}",
            words=_words(_CONTEXT, joined=True),
            background_words=words,
            methods=("sclip", "naclip", "clearclip", "proxyclip"),
        ),
        **_published(
            _CONTEXT,
            {
                "cat-seg": ("CAT-Seg", (), "cvlab-kaist/CAT-Seg datasets/pc59.json", {"table": ("diningtable",)}, ()),
                "cliper": (
                    *("CLIPer", ("cliper",), "linsun449/cliper.code data/voc/cls_context60.txt"),
                    {
                        "bird": ("bird avian",),
                        "chair": ("chair seat",),
                        "person": _PEOPLE,
                        "tv monitor": ("tvmonitor screen",),
                    },
                    ONE_WORD,
                ),
            },
        ),
    }


def _object_names() -> dict[str, Names]:
    file = "configs/cls_coco_object.txt"
    return {
        "default": _default(_OBJECT, "wangf3014/SCLIP custom_datasets.py"),
        **_published(
            _OBJECT,
            {
                "sclip": (
                    *("SCLIP, NACLIP", ("sclip", "naclip"), f"wangf3014/SCLIP {file}"),
                    {"person": (*_PERSONS, "body")},
                    SCLIP_WORDS,
                ),
                "clearclip": ("ClearCLIP", ("clearclip",), f"mc-lan/ClearCLIP {file}", {}, ONE_WORD),
                "proxyclip": ("ProxyCLIP", ("proxyclip",), f"mc-lan/ProxyCLIP {file}", {}, PROXYCLIP_OBJECT_WORDS),
                "cliper": (
                    *("CLIPer", ("cliper",), "linsun449/cliper.code data/coco14/cls_coco81.txt"),
                    {
                        "person": _PEOPLE,
                        "motorcycle": ("motorbike",),
                        "airplane": ("aeroplane",),
                        "chair": ("chair seat",),
                        "couch": ("sofa",),
                        "potted plant": ("pottedplant",),
                        "dining table": ("diningtable",),
                        "tv": ("tvmonitor",),
                    },
                    CLIPER_OBJECT_WORDS,
                ),
            },
            joined=False,
        ),
    }


def _joined_names(
    names: tuple[str, ...], file: str, published: str, cliper: str | None, **cliper_words: Sequence[str]
) -> dict[str, Names]:
    """The names of a data set of which the papers' files have no blanks in words."""
    of: dict[str, tuple[str, tuple[str, ...], str, Mapping[str, Sequence[str]], tuple[str, ...]]] = {
        "sclip": (
            *("SCLIP, NACLIP, ClearCLIP, ProxyCLIP", ("sclip", "naclip", "clearclip", "proxyclip"), published),
            {},
            (),
        )
    }
    if cliper is not None:
        of["cliper"] = ("CLIPer", ("cliper",), f"linsun449/cliper.code {cliper}", cliper_words, ONE_WORD)
    return {"default": _default(names, file), **_published(names, of)}


# --------------------------------------------------------------------------- ids


def _from(first: int, names: Iterable[str], rest: Mapping[int, str] = MappingProxyType({})) -> dict[int, str]:
    return dict(rest) | dict(enumerate(names, start=first))


def _by_ids(ids: Iterable[int], names: Iterable[str], rest: Mapping[int, str]) -> dict[int, str]:
    return dict(rest) | dict(zip(ids, names, strict=True))


_VOC_PLACES = ("", "VOC2012", "VOCdevkit/VOC2012")
_VOC_SPLITS = {
    "val": Split(folder="val", pictures=(1449,)),
    "train": Split(folder="train", pictures=(1464,)),
    "trainval": Split(folder="trainval", pictures=(2913,)),
}
_VOC_DOWNLOAD = "VOCtrainval_11-May-2012.tar of PASCAL VOC 2012"


def _voc_layouts(zero: str) -> tuple[Layout, ...]:
    ids = _from(1, _VOC, {0: zero})
    return tuple(
        Layout(
            title=title,
            labels=folder,
            images="JPEGImages",
            lists="ImageSets/Segmentation/{split}.txt",
            ids=ids,
            colours=True,
        )
        for title, folder in (("VOC", "SegmentationClass"), ("SBD's, grey", "SegmentationClassAug"))
    )


_CONTEXT_PLACES = ("", "VOC2010", "VOCdevkit/VOC2010")
_CONTEXT_SPLITS = {
    "val": Split(folder="val", pictures=(5104, 5105)),
    "train": Split(folder="train", pictures=(4996, 4998)),
}
# mmsegmentation's lists, from the detail API, lack three pictures of the paper's 4,998 and 5,105.
_CONTEXT_LIST = "ImageSets/SegmentationContext/{split}.txt"


def _context_layouts(zero: str) -> tuple[Layout, ...]:
    return (
        Layout(
            title="mmsegmentation",
            labels="SegmentationClassContext",
            images="JPEGImages",
            lists=_CONTEXT_LIST,
            ids=_from(1, _CONTEXT, {0: zero}),
        ),
        Layout(
            title="CAT-Seg",
            labels="annotations_detectron2/pc59_{split}",
            images="JPEGImages",
            ids=_from(0, _CONTEXT, {255: zero}),
            ignore=() if zero == BACKGROUND else (255,),
        ),
        Layout(
            title="the detail API",
            labels="trainval_merged.json",
            images="JPEGImages",
            ids=_by_ids(_CONTEXT_IDS, _CONTEXT, {0: zero}),
            form="context",
            ignore=(),
        ),
    )


_COCO_PLACES = ("", "coco_stuff164k", "cocostuff", "coco-stuff", "coco")
_COCO_SPLITS = {
    "val": Split(folder="val2017", pictures=(5000,)),
    "train": Split(folder="train2017", pictures=(118287,)),
}
_COCO_OTHERS = ("_labelTrainIds.png", "_instanceTrainIds.png")
_COCO_DOWNLOAD = "val2017.zip of COCO and stuffthingmaps_trainval2017.zip of COCO-Stuff"
_COCO_FOLDERS = (("COCO-Stuff", "stuffthingmaps/{split}"), ("mmsegmentation", "annotations/{split}"))


def _coco_layouts(classes: Mapping[str, str], *prepared: Layout) -> tuple[Layout, ...]:
    """COCO-Stuff's label images, whose ids are one below those of its `labels.txt`."""
    ids = {index: classes[name] for index, name, _ in _COCO}
    images = "images/{split}|{split}"
    plain = [
        Layout(title=title, labels=folder, images=images, ids=ids, others=_COCO_OTHERS)
        for title, folder in (*_COCO_FOLDERS, ("COCO-Stuff, unpacked beside the pictures", "{split}"))
    ]
    return (*plain[:1], *prepared, *plain[1:])


_ADE_SPLITS = {
    "val": Split(folder="validation", pictures=(2000,)),
    "train": Split(folder="training", pictures=(20210,)),
}


def _catalogue() -> tuple[Dataset, ...]:
    same = {name: name for name in _STUFF}
    trained = Layout(
        title="mmsegmentation, prepared",
        labels="annotations/{split}",
        suffix="_labelTrainIds.png",
        images="images/{split}|{split}",
        ids=_from(0, _STUFF),
    )
    contiguous = Layout(
        title="CAT-Seg",
        labels="annotations_detectron2/{split}",
        images="images/{split}|{split}",
        ids=_from(0, _STUFF),
    )
    objects = {name: name if name in _OBJECT else BACKGROUND for name in _STUFF}
    merged = {name: group for _, name, group in _COCO}
    coco_file = Layout(
        title="COCO's instances",
        labels="annotations/instances_{split}.json",
        images="images/{split}|{split}",
        ids={index + 1: name for index, name, _ in _COCO[:80]} | {0: BACKGROUND},
        form="coco",
        ignore=(),
        note="the labels are COCO's instances; published figures leave out the pixels that COCO-Stuff has not labelled",
    )
    voc = "Everingham et al., The PASCAL Visual Object Classes Challenge, IJCV 2015"
    context = (
        "Mottaghi et al., The Role of Context for Object Detection and Semantic Segmentation in the Wild, CVPR 2014"
    )
    coco = "Caesar et al., COCO-Stuff: Thing and Stuff Classes in Context, CVPR 2018"
    ade = "Zhou et al., Scene Parsing through ADE20K Dataset, CVPR 2017"
    mmseg = "open-mmlab/mmsegmentation mmseg/datasets"
    others = tuple(name for name in _CONTEXT if name not in _VOC and name != "table")
    return (
        Dataset(
            name="voc21",
            title="PASCAL VOC 2012, 20 classes and the background",
            paper=voc,
            source=f"{mmseg}/voc.py",
            download=_VOC_DOWNLOAD,
            background=True,
            names=_voc_names(21),
            splits=_VOC_SPLITS,
            layouts=_voc_layouts(BACKGROUND),
            places=_VOC_PLACES,
        ),
        Dataset(
            name="voc20",
            title="PASCAL VOC 2012, 20 classes, background left out",
            paper=voc,
            source="wangf3014/SCLIP custom_datasets.py (reduce_zero_label)",
            download=_VOC_DOWNLOAD,
            background=False,
            names=_voc_names(20),
            splits=_VOC_SPLITS,
            layouts=_voc_layouts(VOID),
            places=_VOC_PLACES,
        ),
        Dataset(
            name="voc20b",
            title="PAS-20b: PASCAL VOC 2012, where the background is 39 things with names",
            paper="Ghiasi et al., Scaling Open-Vocabulary Image Segmentation with Image-Level Labels, ECCV 2022",
            source="cvlab-kaist/CAT-Seg datasets/voc20b.json, datasets/prepare_voc.py",
            download=_VOC_DOWNLOAD,
            background=True,
            names=_voc_names(20),
            splits=_VOC_SPLITS,
            layouts=_voc_layouts(BACKGROUND),
            places=_VOC_PLACES,
            background_words=others,
        ),
        Dataset(
            name="context60",
            title="Pascal Context, 59 classes and the background",
            paper=context,
            source=f"{mmseg}/pascal_context.py",
            download="VOCtrainval_03-May-2010.tar of PASCAL VOC 2010 and trainval_merged.json",
            background=True,
            names=_context_names(60),
            splits=_CONTEXT_SPLITS,
            layouts=_context_layouts(BACKGROUND),
            places=_CONTEXT_PLACES,
        ),
        Dataset(
            name="context59",
            title="Pascal Context, 59 classes, background left out",
            paper=context,
            source=f"{mmseg}/pascal_context.py (reduce_zero_label)",
            download="VOCtrainval_03-May-2010.tar of PASCAL VOC 2010 and trainval_merged.json",
            background=False,
            names=_context_names(59),
            splits=_CONTEXT_SPLITS,
            layouts=_context_layouts(VOID),
            places=_CONTEXT_PLACES,
        ),
        Dataset(
            name="context459",
            title="Pascal Context, all 459 classes",
            paper=context,
            source="cvlab-kaist/CAT-Seg datasets/pc459.json, datasets/prepare_pascal_context_459.py",
            download="VOCtrainval_03-May-2010.tar of PASCAL VOC 2010, trainval.tar.gz of Pascal Context, and a list of "
            "the pictures (CAT-Seg's datasets/pascalcontext_val.txt)",
            background=False,
            names={
                "default": _default(_CONTEXT459, "mc-lan/ProxyCLIP configs/cls_context459.txt"),
                "cat-seg": Names(
                    paper="CAT-Seg",
                    file="cvlab-kaist/CAT-Seg datasets/pc459.json",
                    words=_words(_CONTEXT459, joined=True),
                ),
            },
            splits=_CONTEXT_SPLITS,
            layouts=(
                Layout(
                    title="Pascal Context",
                    labels="trainval",
                    suffix=".mat",
                    images="JPEGImages",
                    lists=f"pascalcontext_{{split}}.txt|{_CONTEXT_LIST}",
                    ids=_from(1, _CONTEXT459, {0: VOID}),
                    form="mat",
                    ignore=(),
                ),
                Layout(
                    title="CAT-Seg",
                    labels="annotations_detectron2/pc459_{split}",
                    suffix=".tif",
                    images="JPEGImages",
                    ids=_from(0, _CONTEXT459),
                    ignore=(459, 65535),
                ),
            ),
            places=_CONTEXT_PLACES,
        ),
        Dataset(
            name="coco-object",
            title="COCO-Object: the 80 things of COCO and the background",
            paper=f"{coco}; the protocol: Xu et al., GroupViT, CVPR 2022",
            source="wangf3014/SCLIP datasets/cvt_coco_object.py (from GroupViT)",
            download=_COCO_DOWNLOAD,
            background=True,
            names=_object_names(),
            splits=_COCO_SPLITS,
            layouts=(
                *_coco_layouts(
                    objects,
                    Layout(
                        title="GroupViT, prepared",
                        labels="annotations/{split}",
                        suffix="_instanceTrainIds.png",
                        images="images/{split}|{split}",
                        ids=_from(1, _OBJECT, {0: BACKGROUND}),
                    ),
                ),
                coco_file,
            ),
            places=_COCO_PLACES,
        ),
        Dataset(
            name="coco-stuff",
            title="COCO-Stuff 164k, 171 classes",
            paper=coco,
            source=f"{mmseg}/coco_stuff.py, tools/dataset_converters/coco_stuff164k.py",
            download=_COCO_DOWNLOAD,
            background=False,
            names=_joined_names(
                *(_STUFF, f"{mmseg}/coco_stuff.py", "wangf3014/SCLIP configs/cls_coco_stuff.txt"),
                "data/coco14/cls_coco_stuff172.txt",
            ),
            splits=_COCO_SPLITS,
            layouts=_coco_layouts(same, trained, contiguous),
            places=_COCO_PLACES,
        ),
        Dataset(
            name="coco-stuff27",
            title="COCO-Stuff, merged to 27 classes",
            paper=f"{coco}; the protocol: Ji et al., IIC, ICCV 2019; Cho et al., PiCIE, CVPR 2021",
            source="mhamilton723/STEGO src/data.py (fine_to_coarse)",
            download=f"{_COCO_DOWNLOAD}; the published list is Coco164kFull_Stuff_Coarse_7.txt of IIC (--split FILE)",
            background=False,
            names={"default": _default(_MERGED, "sonalexle/langseg datasets/coco_stuff.py (from IIC)")},
            splits=_COCO_SPLITS,
            layouts=_coco_layouts(
                merged,
                *(
                    Layout(
                        title=layout.title,
                        labels=layout.labels,
                        suffix=layout.suffix,
                        images=layout.images,
                        ids={index: merged[name] for index, name in layout.ids.items()},
                    )
                    for layout in (trained, contiguous)
                ),
            ),
            places=_COCO_PLACES,
        ),
        Dataset(
            name="ade150",
            title="ADE20K, the 150 classes of the scene parsing benchmark",
            paper=ade,
            source=f"{mmseg}/ade.py (reduce_zero_label)",
            download="ADEChallengeData2016.zip",
            background=False,
            names=_joined_names(
                *(_ADE150, f"{mmseg}/ade.py", "wangf3014/SCLIP configs/cls_ade20k.txt", "data/ade/cls_ade20k.txt"),
                person=_PEOPLE,
            ),
            splits=_ADE_SPLITS,
            layouts=(
                Layout(
                    title="ADE20K",
                    labels="annotations/{split}",
                    images="images/{split}",
                    ids=_from(1, _ADE150, {0: VOID}),
                ),
                Layout(
                    title="CAT-Seg",
                    labels="annotations_detectron2/{split}",
                    images="images/{split}",
                    ids=_from(0, _ADE150),
                ),
            ),
            places=("", "ADEChallengeData2016", "ade/ADEChallengeData2016"),
        ),
        Dataset(
            name="ade847",
            title="ADE20K, the 847 classes of the full set",
            paper=ade,
            source="cvlab-kaist/CAT-Seg datasets/prepare_ade20k_full.py (from MaskFormer)",
            download="ADE20K_2021_17_01 (by request)",
            background=False,
            names={
                "default": Names(
                    paper="ADE20K",
                    file="cvlab-kaist/CAT-Seg datasets/ade847.json",
                    words=_ADE847,
                )
            },
            splits={
                "val": Split(folder="validation", pictures=(2000,)),
                "train": Split(folder="training", pictures=(25574,)),
            },
            layouts=(
                Layout(
                    title="CAT-Seg",
                    labels="annotations_detectron2/{split}",
                    suffix=".tif",
                    images="images_detectron2/{split}",
                    ids=dict(enumerate(words[0] for words in _ADE847)),
                    ignore=(65535,),
                ),
                Layout(
                    title="ADE20K",
                    labels="images/ADE/{split}",
                    suffix="_seg.png",
                    images="images/ADE/{split}",
                    ids=_by_ids((index for index, _ in table("ade847")), (words[0] for words in _ADE847), {}),
                    form="red-green",
                    ignore=(65535,),
                    note="pictures and labels have their full size; published figures are of a short side of 512",
                ),
            ),
            places=("", "ADE20K_2021_17_01"),
        ),
        Dataset(
            name="cityscapes",
            title="Cityscapes, 19 classes",
            paper="Cordts et al., The Cityscapes Dataset for Semantic Urban Scene Understanding, CVPR 2016",
            source=f"{mmseg}/cityscapes.py; mcordts/cityscapesScripts cityscapesscripts/helpers/labels.py",
            download="leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip",
            background=False,
            names=_joined_names(
                *(_CITYSCAPES, f"{mmseg}/cityscapes.py", "wangf3014/SCLIP configs/cls_city_scapes.txt", None)
            ),
            splits={"val": Split(folder="val", pictures=(500,)), "train": Split(folder="train", pictures=(2975,))},
            layouts=(
                Layout(
                    title="Cityscapes, trainIds",
                    labels="gtFine/{split}",
                    suffix="_gtFine_labelTrainIds.png",
                    images="leftImg8bit/{split}",
                    image_suffix="_leftImg8bit.png",
                    ids=_from(0, _CITYSCAPES),
                ),
                Layout(
                    title="Cityscapes, labelIds",
                    labels="gtFine/{split}",
                    suffix="_gtFine_labelIds.png",
                    images="leftImg8bit/{split}",
                    image_suffix="_leftImg8bit.png",
                    ids=_by_ids(_CITYSCAPES_IDS, _CITYSCAPES, dict.fromkeys(range(34), VOID)),
                ),
            ),
            places=("", "cityscapes"),
        ),
    )


DATASETS: Mapping[str, Dataset] = MappingProxyType({dataset.name: dataset for dataset in _catalogue()})
"""The data sets by name."""


def find_dataset(name: str) -> tuple[Dataset, str]:
    """A data set and whose names its classes have: ``voc21``, or ``voc21:sclip``.

    Raises:
        UsageError: There is no such data set, or no such names of it.
    """
    bare, colon, variant = name.partition(":")
    dataset = DATASETS.get(bare.strip().casefold())
    if dataset is None:
        raise UsageError(
            f"There is no data set {shown_name(bare)}; there are {', '.join(DATASETS)}.{did_you_mean(bare, DATASETS)}"
        )
    variant = variant.strip().casefold() if colon else "default"
    if variant not in dataset.names:
        raise UsageError(
            f"There are no names {shown_name(variant)} of {dataset.name}; there are {', '.join(dataset.names)}."
            f"{did_you_mean(variant, dataset.names)}"
        )
    return dataset, variant
