"""Words for what is none of the classes, as the methods' published settings have them."""

from __future__ import annotations

SCLIP_WORDS = (
    *("sky", "wall", "tree", "wood", "grass", "road", "sea", "river", "mountain", "sands", "desk", "bed", "building"),
    *("cloud", "lamp", "door", "window", "wardrobe", "ceiling", "shelf", "curtain", "stair", "floor", "hill", "rail"),
    "fence",
)
"""wangf3014/SCLIP, `configs/cls_voc21.txt` and `cls_coco_object.txt`; NACLIP's are these, and ProxyCLIP's for VOC."""

PROXYCLIP_OBJECT_WORDS = (
    *("sky", "wall", "tree", "wood", "grass", "road", "sea", "river", "mountain", "sands", "desk", "bed", "building"),
    *("cloud", "floor", "hill", "rail"),
)
"""mc-lan/ProxyCLIP, `configs/cls_coco_object.txt`."""

CLIPER_VOC_WORDS = (
    *("ground", "land", "grass", "tree", "building", "wall", "sky", "lake", "water", "river", "sea", "railway"),
    *("railroad", "keyboard", "helmet", "cloud", "house", "mountain", "ocean", "road", "rock", "street", "valley"),
    *("bridge", "sign"),
)
"""linsun449/cliper.code, `data/voc/cls_voc21.txt`."""

CLIPER_OBJECT_WORDS = tuple(word for word in CLIPER_VOC_WORDS if word not in ("keyboard", "sign"))
"""The same, `data/coco14/cls_coco81.txt`."""

ONE_WORD = ("background",)
"""What ClearCLIP has for every data set with a background, all of them for Context60, and CLIPer for most."""
