"""Region proposals: what OVDiff's segmenter does, by the generator's own self-attention or by SAM."""

from __future__ import annotations

from ovseg_cli.backbones.pixels import to_tensor
from ovseg_cli.backbones.sam import SamBackbone
from ovseg_cli.backbones.unet import Noising
from ovseg_cli.clustering.regions import enlarge_regions, merge_attention
from ovseg_cli.errors import UsageError
from ovseg_cli.models import Models
from ovseg_cli.prototypes.masks import Mask, MaskMethod, Picture, RegionProposer


def make_proposer(models: Models, method: MaskMethod) -> RegionProposer | None:
    """The region proposer of a mask method.

    Args:
        models: The profile's models; what the proposer needs is loaded here, before any image is made.
        method: How objects are cut out.

    Returns:
        None for the methods that threshold attribution maps.

    Raises:
        UsageError: The profile has no SAM.
        WeightsError: Weights are not here and cannot be fetched.
    """
    if method == "self-attention":
        return SelfAttentionRegions(models)
    if method == "sam":
        weights = models.profile.regions.sam
        if weights is None:
            raise UsageError(
                f"The profile {models.profile.name!r} has no SAM weights, so there is no `--mask-method sam`. "
                "Use otsu, fixed or self-attention, or a profile with SAM: see `ovseg profiles`."
            )
        return SamRegions(models.sam(weights), f"sam ({weights.model_id})")
    return None


class SamRegions:
    """Automatic masks of SAM or SAM 2.

    Args:
        sam: The model.
        name: For the record.
    """

    def __init__(self, sam: SamBackbone, name: str) -> None:
        self._sam = sam
        self.name = name

    def propose(self, image: Picture) -> Mask:
        """Masks of one picture, bool (R, H, W); see `SamBackbone.masks`."""
        return self._sam.masks(image)


class SelfAttentionRegions:
    """Regions whose pixels attend alike in the generator's UNet (after DiffSeg, Tian et al., CVPR 2024).

    The attention of an even grid of tokens is merged by its divergence (`merge_attention`); each token joins the
    merged attention that it weighs most in. A pixel goes to the region that most of its token's attention
    falls on, enlarged bilinearly (`enlarge_regions`). Regions are not split into connected parts: several
    objects of one class in a picture are all of the class.

    Args:
        models: The profile's models.
    """

    def __init__(self, models: Models) -> None:
        self._generator = models.generator
        self._profile = models.profile
        self._device = models.device
        self.name = f"self-attention ({models.profile.generator.weights.model_id})"

    def propose(self, image: Picture) -> Mask:
        """Regions of one picture, bool (R, H, W): every pixel is in exactly one."""
        spec, generator = self._profile.regions, self._profile.generator
        noising = Noising(spec.timestep, spec.noise_seed, generator.image_size)
        pixels = to_tensor(image, self._device)
        (attention,) = self._generator.self_attention(pixels, noising, layers=spec.layers)
        merged = merge_attention(attention, anchors=spec.anchors, divergence=spec.divergence)
        return enlarge_regions(attention, merged.argmax(dim=0), image.shape[:2])
