"""Going on where a training stopped, and the file that it leaves."""

from __future__ import annotations

import json
import signal

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from ovseg_cli.drawing.curves import curves_sheet, read_curves
from ovseg_cli.errors import OvsegError, ProfileMismatchError, UsageError
from ovseg_cli.heads import training as code
from ovseg_cli.heads.artefact import load_head
from ovseg_cli.heads.plans import Plan, make_plan, make_spec
from ovseg_cli.heads.record import read_record
from ovseg_cli.heads.training import Training, progress_at, rate_at
from ovseg_cli.profiles import get_profile
from ovseg_cli.runs.heads import HeadRequest, train_head
from tests.heads.conftest import paint_folder
from tests.heads.test_dedos import clip_sizes
from tests.mini import mini_models

PLAN = Plan(minutes=None, steps=12, warmup=2, batch=2)


class Small(nn.Module):
    """A head that learns a line, and remembers that it has."""

    def __init__(self):
        super().__init__()
        self.line = nn.Linear(3, 1)
        self.register_buffer("seen", torch.zeros(1))


def loss_of(head, stop_at=None):
    def loss(step, random):
        if step == stop_at:
            raise RuntimeError("killed")
        x = torch.randn(8, 3, generator=random)
        head.seen += 1
        return (head.line(x) - x.sum(dim=1, keepdim=True)).square().mean(), {"twice": 2.0}

    return loss


def trained(folder, plan=PLAN, *, stop_at=None, resume=True, save_every=None, monkeypatch=None):
    torch.manual_seed(plan.seed)
    head = Small()
    training = Training(head, plan, folder, {"of": "a line"}, resume=resume)
    if save_every is not None:
        monkeypatch.setattr(code, "CHECKPOINT_SECONDS", save_every)
    training.run(loss_of(head, stop_at))
    return training


@pytest.mark.parametrize("killed_at", [1, 5, 11])
@pytest.mark.parametrize("saved", [True, False])
def test_a_killed_run_ends_with_the_same_weights(tmp_path, monkeypatch, killed_at, saved):
    """Killed at any step, with a checkpoint of the step before or with none at all."""
    whole = trained(tmp_path / "whole").weights()
    with pytest.raises(RuntimeError, match="killed"):
        trained(tmp_path / "half", stop_at=killed_at, save_every=-1.0 if saved else 60.0, monkeypatch=monkeypatch)
    assert (tmp_path / "half" / "checkpoint.safetensors").exists() == saved
    again = trained(tmp_path / "half").weights()
    assert whole.keys() == again.keys()
    assert all(torch.equal(value, again[name]) for name, value in whole.items())
    # What is not of the clock in the curves is the same too.
    columns = [read_curves(tmp_path / name / "curves.csv") for name in ("whole", "half")]
    assert columns[0]["step"] == columns[1]["step"]


def test_by_the_clock_the_pace_is_repeated(tmp_path, monkeypatch):
    """Learning rates of a run by the clock are those of the first time, whatever the second one's clock says."""
    plan = Plan(minutes=0.02, steps=None, warmup=2)
    clock = iter(range(10_000))
    monkeypatch.setattr(code.time, "monotonic", lambda: next(clock) * 0.05)
    whole = trained(tmp_path / "whole", plan)
    steps = whole.step
    assert 10 < steps < 40
    clock = iter(range(10_000))
    with pytest.raises(RuntimeError):
        trained(tmp_path / "half", plan, stop_at=8)
    pace = (tmp_path / "whole" / "pace.txt").read_text().splitlines()
    half = (tmp_path / "half" / "pace.txt").read_text().splitlines()
    assert half == pace[:9]
    monkeypatch.setattr(code.time, "monotonic", lambda: next(clock) * 0.02)  # another machine's speed
    again = trained(tmp_path / "half", plan)
    assert (tmp_path / "half" / "pace.txt").read_text().splitlines()[:9] == pace[:9]
    assert again.step > 9


@pytest.fixture
def heard():
    """Ctrl-C as a terminal's program hears it: the workers that tests may run in leave it alone."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heard")
def test_ctrl_c_waits_for_the_step_and_keeps_it(tmp_path):
    torch.manual_seed(0)
    head = Small()
    inner, before = loss_of(head), signal.getsignal(signal.SIGINT)

    def loss(step, random):
        if step == 4:
            signal.raise_signal(signal.SIGINT)
        return inner(step, random)

    training = Training(head, PLAN, tmp_path, {"of": "a line"})
    with pytest.raises(KeyboardInterrupt):
        training.run(loss)
    assert training.step == 5
    assert signal.getsignal(signal.SIGINT) is before
    again = trained(tmp_path)
    whole = trained(tmp_path / "whole")
    assert all(torch.equal(value, again.weights()[name]) for name, value in whole.weights().items())


def test_a_checkpoint_of_another_training(tmp_path):
    trained(tmp_path)
    with pytest.raises(UsageError, match=r"another training: of differ.*--no-resume"):
        Training(Small(), PLAN, tmp_path, {"of": "a circle"})
    assert Training(Small(), PLAN, tmp_path, {"of": "a circle"}, resume=False).step == 0


def test_a_damaged_checkpoint(tmp_path):
    (tmp_path / "checkpoint.safetensors").write_bytes(b"12345678")
    with pytest.raises(UsageError, match=r"damaged.*--no-resume"):
        Training(Small(), PLAN, tmp_path, {})


def test_a_loss_that_is_no_number(tmp_path):
    training = Training(Small(), PLAN, tmp_path, {})
    with pytest.raises(OvsegError, match="The loss is nan at step 0"):
        training.run(lambda *_: (torch.tensor(float("nan"), requires_grad=True), {}))


def test_rates_rise_and_fall():
    plan = Plan(minutes=None, steps=100, warmup=10)
    rates = [rate_at(plan, step, progress_at(plan, step, 0.0)) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(1, abs=0.03)
    assert rates[-1] < 0.001
    slow = Plan(minutes=1, steps=None, warmup=100)
    assert rate_at(slow, 3, progress_at(slow, 3, 30.0)) == pytest.approx(0.5)  # risen by the clock
    assert progress_at(slow, 3, 60.0) == 1


def test_a_plan_needs_an_end():
    with pytest.raises(UsageError, match="--minutes X, --steps N"):
        Plan(minutes=None, steps=None)
    with pytest.raises(UsageError, match="--batch must be above 0"):
        Plan(batch=0)
    assert make_plan("published", clip_sizes()).steps == 80_000
    assert make_plan("fast", clip_sizes(), steps=5).minutes is None


# --------------------------------------------------------------------------- the file


def request(folder, **changes):
    plan = {"steps": 2, "batch": 2, **changes.pop("plan", {})}
    return HeadRequest(
        name="squares",
        kind=changes.pop("kind", "catseg"),
        images=folder / "images",
        labels=folder / "labels",
        output=folder / "squares.safetensors",
        plan=plan,
        **changes,
    )


def test_save_load_and_equal_answers(folder):
    models = mini_models()
    found = train_head(request(folder, novel=("car",)), models)
    head, record = load_head(found.path, models.clip)
    assert record.base == ("grass", "cat", "dog")
    assert record.novel == ("car",)
    assert record.training["finished"]
    assert record.training["steps"] == 2
    again, _ = load_head(found.path, models.clip)
    pixels = torch.randn(2, 3, 64, 64)
    texts = torch.nn.functional.normalize(torch.randn(1, 3, 1, 128), dim=-1)
    with torch.no_grad():
        answers = [each.compare(each.features(models.clip, pixels), texts) for each in (head, again)]
    assert torch.equal(*answers)
    with safe_open(found.path, "pt") as file:
        assert json.loads(file.metadata()["ovseg_head"])["name"] == "squares"
    assert sorted(path.name for path in found.folder.iterdir()) == ["curves.csv", "curves.png"]


def test_the_same_request_is_done_already(folder):
    models = mini_models()
    first = train_head(request(folder), models)
    written = first.path.read_bytes()
    second = train_head(request(folder), models)
    assert second.again
    assert first.path.read_bytes() == written
    assert not train_head(request(folder, plan={"steps": 3}), models).again


def test_equal_requests_give_equal_files(folder, tmp_path):
    models = mini_models()
    first = load_file(train_head(request(folder), models).path)
    second = load_file(train_head(request(folder), models, resume=False).path)
    assert all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.slow
@pytest.mark.usefixtures("heard")
def test_an_interrupted_training_leaves_a_head(folder, monkeypatch):
    models, told = mini_models(), []

    class Stop:
        def read(self, done, total): ...
        def begin(self, data, spec, plan): ...
        def cache(self, done, total): ...
        def score(self, done, total): ...

        def step(self, moment):
            if not told:
                told.append(moment.step)
                signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(code, "LOG_STEPS", 1)
    with pytest.raises(KeyboardInterrupt):
        train_head(request(folder, plan={"steps": 4}), models, listener=Stop())
    assert not read_record(folder / "squares.safetensors").training["finished"]
    stopped = train_head(request(folder, plan={"steps": 4}), models)
    assert stopped.record.training["steps"] == 4
    whole = load_file(stopped.path)
    fresh = load_file(train_head(request(folder, plan={"steps": 4}), models, resume=False).path)
    assert all(torch.equal(value, fresh[name]) for name, value in whole.items())


def test_another_clip_is_refused(folder):
    found = train_head(request(folder), mini_models())
    with pytest.raises(ProfileMismatchError, match=r"was trained on the CLIP bundled:mini/clip.*'sd15' has"):
        found.record.check_profile(get_profile("sd15"), found.path)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "no safetensors"), (b"\xff" * 20, "no safetensors"), (b"\x02\0\0\0\0\0\0\0{}", "does not say what")],
)
def test_files_that_are_no_heads(tmp_path, content, message):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=message):
        read_record(path)


@pytest.fixture(scope="module")
def small_head(tmp_path_factory):
    """The bytes of a head that was hardly trained."""
    return train_head(request(paint_folder(tmp_path_factory.mktemp("head") / "data")), mini_models()).path.read_bytes()


@pytest.fixture
def head_file(tmp_path, small_head):
    (tmp_path / "h.safetensors").write_bytes(small_head)
    return tmp_path / "h.safetensors"


def test_a_head_with_tensors_of_another(folder):
    found = train_head(request(folder), mini_models())
    with safe_open(found.path, "pt") as file:
        note = file.metadata()
    save_file({"nothing": torch.zeros(1)}, found.path, metadata=note)
    with pytest.raises(UsageError, match="is damaged: its tensors"):
        load_head(found.path)


def rewritten(path, *changes, tensors=None):
    """The head's file with other values in its record, each given as a path of keys with a value."""
    with safe_open(path, "pt") as file:
        record = json.loads(file.metadata()["ovseg_head"])
    for *keys, value in changes:
        inner = record
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value
    save_file(tensors or load_file(path), path, metadata={"ovseg_head": json.dumps(record)})


BAD_RECORDS = [
    ("spec", "kind", "os.system"),
    ("spec", "kind", "dedos"),
    ("spec", "tuned", "all"),
    ("spec", "cost", "hidden", 10**6),
    ("spec", "cost", "hidden", 256),
    ("spec", "cost", "layers", 10**7),
    ("spec", "cost", "heads", 0),
    ("spec", "cost", "window", -1),
    ("spec", "clip", "width", 10**5),
    ("spec", "clip", "depth", 0),
    ("training", "seconds", float("inf")),
    ("format", "1"),
    ("base", 5),
    ("zzz", 1),
]


@pytest.mark.parametrize("change", BAD_RECORDS, ids=lambda change: f"{change[-2]}={change[-1]}")
def test_a_record_that_no_head_has(head_file, change):
    rewritten(head_file, change)
    with pytest.raises(UsageError, match=r"(is no head of ovseg|is damaged): .{20}") as caught:
        load_head(head_file)
    assert "__init__" not in str(caught.value)


def test_a_record_that_is_nested_beyond_reason(tmp_path):
    text = "[" * 100_000
    for header in (text, json.dumps({"__metadata__": {"ovseg_head": text}})):
        (tmp_path / "x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header.encode())
        with pytest.raises(UsageError, match="is no head of ovseg"):
            read_record(tmp_path / "x.safetensors")


def test_tensors_that_are_not_those_that_were_written(head_file):
    content = head_file.read_bytes()
    head_file.write_bytes(content[: len(content) - 100])
    with pytest.raises(UsageError, match="is damaged: it has not the"):
        read_record(head_file)
    head_file.write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
    with pytest.raises(UsageError, match="tensors are not those that were written"):
        load_head(head_file)
    head_file.write_bytes(content)
    tensors = load_file(head_file)
    name = next(iter(tensors))
    rewritten(head_file, ("tensors", ""), tensors={**tensors, name: tensors[name].int()})
    with pytest.raises(UsageError, match="is damaged: its tensors are not those of its record"):
        load_head(head_file)


@pytest.mark.slow
def test_both_towers_of_clip_can_be_tuned(folder):
    found = train_head(request(folder, tuned="both"), mini_models())
    tensors = load_file(found.path)
    assert tensors["text.v.0"].abs().sum() > 0
    assert tensors["visual.v.0"].abs().sum() > 0
    head, _ = load_head(found.path, mini_models().clip)
    assert head.text is not None


@pytest.mark.slow
def test_smoke_of_dedos_with_diffusion(folder):
    """Two steps that read the UNet, its cache and the consistency loss; the file says what it needs at inference."""
    found = train_head(
        request(folder, kind="dedos", dedos={"drop": 0.0, "at_inference": "image"}, plan={"steps": 2}), mini_models()
    )
    assert load_file(found.path)["queries.mean"].abs().sum() > 0
    assert found.record.spec.dedos.tap_channels == (96, 96, 96, 64, 64, 160)
    columns = read_curves(found.folder / "curves.csv")
    assert {"loss", "class", "mask", "dice", "cost", "consistency"} <= columns.keys()
    assert not (found.folder / "taps.f16").exists()


def test_sizes_follow_the_clip_at_hand():
    spec = make_spec("catseg", clip_sizes(), "published")
    assert spec.cost.hidden == 128
    assert spec.tuned == "both"
    assert make_spec("catseg", clip_sizes(), "fast").cost.window == 4
    assert clip_sizes().hooks == (1, 3)


@pytest.mark.slow
def test_tiles_are_those_of_the_published_code(folder):
    """A head with tiles sees a picture as a square, its windows and the whole; crops have no part in it."""
    from dataclasses import replace

    from ovseg_cli.backbones.pixels import to_working_tensor
    from ovseg_cli.files.images import open_image
    from ovseg_cli.heads.artefact import save_head
    from ovseg_cli.heads.tiles import Tiles, cut, fuse
    from ovseg_cli.segmentation.options import SegmentOptions
    from ovseg_cli.segmentation.segmenter import Segmenter
    from ovseg_cli.store import Store

    models, path = mini_models(), folder / "tiled.safetensors"
    head, record = load_head(train_head(request(folder), models).path, models.clip)
    geometry = {"short_side": 96, "whole_image": True, "squash": 96, "resample": "bilinear-float"}
    save_head(path, head.state_dict(), replace(record, tiles=(96, 64, 32), geometry=geometry))
    image = open_image(folder / "images" / "p0.png").resize((80, 56))
    with Store.open(folder / "store", profile="mini") as store:
        options = SegmentOptions(background=False)
        segmenter = Segmenter(models, store, ["cat", "dog"], method=f"head:{path}", options=options)
        found = segmenter.score(image).values
    square = to_working_tensor(image, (96, 96), resample="bilinear-float")
    texts = models.clip.embed_text(["cat", "dog"], models.profile.clip.prompts)[None, :, None]
    tiles = Tiles(96, 64, 32)
    with torch.inference_mode():
        pieces = cut(square, tiles)[0] * 2 - 1
        logits = head.compare(head.features(models.clip, pieces), texts)
        wanted = fuse(logits[None], tiles)[0]
    assert torch.allclose(found[1:], wanted, atol=1e-4)


def test_curves_are_drawn(tmp_path):
    sheet = curves_sheet({"step": [1.0, 2.0, 3.0], "seconds": [1, 2, 3], "loss": [3.0, 2.0, 1.0]}, title="a head")
    assert sheet.width > 400
    assert len(sheet.getcolors(10_000)) > 5
    empty = curves_sheet({"step": [], "loss": []}, title="none")
    assert empty.height < sheet.height + 1
