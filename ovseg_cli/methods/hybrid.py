"""Prototypes and words together, for classes of which some have prototypes and some have none.

The two speak of different things on different scales: cosines with prototypes of some classes and of their
surroundings, and probabilities of words for all classes and for the background. Both become probabilities first.
Prototypes then say how likely each class that has some is, and how likely anything else; what that is among the
classes without prototypes and the background, only words can say. So each hypothesis is judged by both (a product of
experts, Hinton, Neural Computation 14, 2002), and those that prototypes do not know share one judgement of theirs:

    log p(c)    =  w log p_prototypes(c)      +  (1 - w) log p_words(c)    for a class with prototypes
    log p(c)    =  w log p_prototypes(other)  +  (1 - w) log p_words(c)    for any other, and for the background

For prototypes, "other" stands for the background and for every class without prototypes: it has their prior together,
that of as many hypotheses. (With equal priors, a class with prototypes would win where a lookalike without any is, as
the surroundings of other classes are seldom as near.)

Words speak of all classes, prototypes of some: w is the weight that prototypes have when they know all classes, times
the share that they know. Without any class with prototypes this is what the words say, and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ovseg_cli.devices import constant


def hybrid_scores(
    prototypes: Tensor,
    words: Tensor,
    known: Sequence[int],
    left_out: Sequence[int] = (),
    *,
    scale: float,
    weight: float,
) -> Tensor:
    """Class probabilities from both.

    Args:
        prototypes: float (P + 1, h, w), cosines: channel 0 with the best background prototype, the others with the
            best prototype of each class that has some.
        words: float (C + 1, h, w), probabilities, channel 0 the background's. Classes without background words may
            leave it 0 everywhere.
        known: For each of those P classes its number among the C, counted from 1.
        left_out: Numbers of the classes that have prototypes as well, none of which comes near: each of them has the
            cosine of the least alike of those P classes.
        scale: Cosines are multiplied by this before the softmax.
        weight: How much prototypes count when every class has some, in [0, 1].

    Returns:
        float32 (C + 1, h, w) in [0, 1], summing to 1 over the channels; without any class with prototypes, `words`.

    Raises:
        ValueError: The numbers do not fit the channels.
    """
    if (
        len(known) + 1 != len(prototypes)
        or len(set(known)) != len(known)
        or not {*known, *left_out} <= set(range(1, len(words)))
        or not set(known).isdisjoint(left_out)
    ):
        raise ValueError(f"{len(prototypes)} channels of prototypes and {len(words)} of words do not fit {known!r}")
    if not known:
        return words.float()
    weight *= (len(known) + len(left_out)) / (len(words) - 1)
    others = len(words) - len(known) - len(left_out)  # the background's channel is one of them
    cosines = prototypes.float()
    prior = torch.zeros(len(prototypes) + bool(left_out), 1, 1, device=words.device)
    prior[0] = math.log(others)
    if left_out:  # all of them are one channel, of which each has its share
        cosines = torch.cat([cosines, cosines[1:].amin(dim=0, keepdim=True)])
        prior[-1] = math.log(len(left_out))
    spoken = words.float().clamp_min(torch.finfo(torch.float32).tiny).log()
    judged = (cosines * scale + prior).log_softmax(dim=0)
    channel = dict.fromkeys(left_out, len(prototypes)) | {number: i for i, number in enumerate(known, start=1)}
    if left_out:
        judged[-1] -= math.log(len(left_out))
    chosen = constant(tuple(channel.get(i, 0) for i in range(len(words))), words.device, torch.int64)
    return (weight * judged[chosen] + (1 - weight) * spoken).softmax(dim=0)
