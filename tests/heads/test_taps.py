from __future__ import annotations

import torch

from ovseg_cli.heads import taps as code
from ovseg_cli.heads.data import Augmentation, Pictures, draw_batch, read_data
from ovseg_cli.heads.taps import TapCache, Taps
from tests.heads.conftest import paint_folder


class Reader:
    """Says of a picture what it is, and counts how often it is asked."""

    side = 8

    def __init__(self):
        self.asked = 0

    def read(self, images):
        self.asked += len(images)
        mean = images.mean(dim=(2, 3))[:, None]
        return Taps([[mean.expand(-1, 4, -1), mean[..., :2]], [mean * 2, mean[..., :2] * 2]], images)


def cache_of(folder, reader, count, identity="these"):
    return TapCache(reader, folder, count, "cpu", identity)


def test_each_picture_is_asked_once_and_kept_for_the_next_run(tmp_path):
    folder = paint_folder(tmp_path / "data")
    pictures, reader = Pictures(read_data(folder / "images", folder / "labels", hold_out=False)), Reader()
    random = torch.Generator().manual_seed(0)
    batches = [draw_batch(pictures, 6, Augmentation(crop=16), random) for _ in range(4)]
    cache = cache_of(tmp_path, reader, len(pictures))
    first = [cache.of(pictures, batch) for batch in batches]
    assert reader.asked == len({index for batch in batches for index in batch.samples})
    again = cache_of(tmp_path, Reader(), len(pictures))
    second = [again.of(pictures, batch) for batch in batches]
    assert again._reader.asked == 0
    for one, other, batch in zip(first, second, batches, strict=True):
        assert [[tuple(t.shape) for t in step] for step in one.taps] == [[(6, 4, 3), (6, 1, 2)], [(6, 1, 3), (6, 1, 2)]]
        assert all(
            torch.equal(a, b) for x, y in zip(one.taps, other.taps, strict=True) for a, b in zip(x, y, strict=True)
        )
        wanted = torch.stack(
            [torch.from_numpy(pictures.get(i)[0].copy()).float().mean(dim=(0, 1)) / 255 for i in batch.samples]
        )
        assert torch.allclose(one.taps[0][0][:, 0], wanted, atol=2e-2)
        assert one.denoised.shape == (6, 3, 16, 16)
    others = cache_of(tmp_path, Reader(), len(pictures), "others")
    others.of(pictures, batches[0])
    assert others._reader.asked == len(set(batches[0].samples))
    others.remove()
    assert not list(tmp_path.glob("taps*"))


def test_without_room_on_the_disk_pictures_are_asked_again(tmp_path, monkeypatch):
    monkeypatch.setattr(code, "MOST_ON_DISK", 0)
    folder = paint_folder(tmp_path / "data")
    pictures, reader = Pictures(read_data(folder / "images", folder / "labels", hold_out=False)), Reader()
    batch = draw_batch(pictures, 6, Augmentation(crop=16), torch.Generator().manual_seed(0))
    cache = cache_of(tmp_path, reader, len(pictures))
    once, twice = cache.of(pictures, batch), cache.of(pictures, batch)
    assert reader.asked == 2 * len(set(batch.samples))
    assert torch.equal(once.taps[1][0], twice.taps[1][0])
