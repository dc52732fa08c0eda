"""Profiles in files: what is written can be read, what is wrong is told with its line, and nothing in them runs."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import re
import shutil
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch

from ovseg_cli.errors import ProfileMismatchError, StoreCorruptError, UsageError, WeightsError
from ovseg_cli.models import Models
from ovseg_cli.profiles import PROFILES, get_profile, profile_of
from ovseg_cli.profiles.folders import folder_revision
from ovseg_cli.profiles.layouts import refuse_code
from ovseg_cli.profiles.own import (
    load_profile,
    lock_of,
    own_files,
    own_folder,
    own_profiles,
    pin_profile,
    profile_text,
    read_profile,
    write_profile,
)
from ovseg_cli.profiles.specs import ExtractorSpec, GeneratorSpec, Profile, Weights
from ovseg_cli.profiles.tables import differences, notes_of, profile_from_record, written_fields
from ovseg_cli.profiles.weights import fetch_command, require_weights
from ovseg_cli.store import Store
from tests.mini import MINI_FOLDER, random_pictures, write_tiny_clip, write_tiny_dino, write_tiny_stable_diffusion

COMMIT = "0123456789abcdef0123456789abcdef01234567"
MINIMAL = """\
[weights.sd]
folder = "diffusion"
variant = "fp16"
[weights.clip]
folder = "clip"
[weights.dino]
folder = "dino"

[generator]
weights = "sd"
image-size = 64
prompt = "a {name}"
negative-prompt = ""
guidance = 7
steps = 2
count = 2
seed = 0
batch-size = 2
parts = 2

[regions]
layers = ["up_blocks.1.attentions.0"]
anchors = 4

[clip]
weights = "clip"
input-size = 64
mean = [0.5, 0.5, 0.5]
std = [0.5, 0.5, 0.5]
best = "gem"

[[extractors]]
name = "sd"
kind = "unet-query"
weights = "sd"
layers = ["up_blocks.1.attentions.1", "mid_block.attentions.0"]
input-size = 64
mean = [0.5, 0.5, 0.5]
std = [0.5, 0.5, 0.5]
timestep = 200
noise-seed = 1

[[extractors]]
name = "clip"
kind = "clip-key"
weights = "clip"
layers = ["-1"]
input-size = 64
mean = [0.5, 0.5, 0.5]
std = [0.5, 0.5, 0.5]

[[extra-extractors]]
name = "dino"
kind = "vit-key"
weights = "dino"
layers = ["-1"]
input-size = 64
mean = [0.5, 0.5, 0.5]
std = [0.5, 0.5, 0.5]

[inference]
short-side = 64
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    write_tiny_stable_diffusion(folder / "diffusion")
    write_tiny_clip(folder / "clip")
    write_tiny_dino(folder / "dino")
    return folder


@pytest.fixture
def place(tmp_path, models):
    """A folder with small models in it."""
    for folder in models.iterdir():
        shutil.copytree(folder, tmp_path / folder.name)
    return tmp_path


@pytest.fixture
def my(place):
    """Write my.toml: the small profile with some of its text replaced."""

    def write(*changes, text=MINIMAL):
        for old, new in changes:
            assert old in text
            text = text.replace(old, new, 1)
        (place / "my.toml").write_text(text, encoding="utf-8")
        return place / "my.toml"

    return write


# --------------------------------------------------------------------------- there and back


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda p: p.name)
def test_every_profile_can_be_written_and_is_the_same_when_it_is_read(tmp_path, profile):
    path = tmp_path / "my.toml"
    write_profile(path, profile)
    reading = read_profile(path)
    assert dataclasses.replace(reading.profile, name=profile.name) == profile
    assert reading.lacking == ()
    assert load_profile(path).name == "my"
    assert load_profile(path).digest != profile.digest  # its name is another
    assert [e.digest for e in load_profile(path).known_extractors] == [e.digest for e in profile.known_extractors]


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda p: p.name)
def test_a_written_file_explains_every_field_once_and_is_not_wide(profile):
    text = profile_text(profile, "my.toml")
    comments = [line for line in text.splitlines() if line.startswith("#")]
    assert max(map(len, comments)) <= 100
    assert not re.search(r"\bNone\b|`|[a-z]_[a-z]+ =", "\n".join(comments))
    for key in written_fields(GeneratorSpec):
        assert len(re.findall(rf"^(?:# .*\b)?{key}\b", text, re.MULTILINE)) >= 1
    assert text.count(notes_of(ExtractorSpec)["dim"][:40]) == 1


def test_what_can_be_written_includes_every_field_that_a_record_has():
    """A field that somebody adds to a dataclass is one of files at once."""
    assert set(written_fields(Profile)) == {f.name.replace("_", "-") for f in dataclasses.fields(Profile)} - {
        "name",
        "source",
    }
    for cls in (GeneratorSpec, ExtractorSpec, Weights):
        assert all(notes_of(cls)[f.name] for f in dataclasses.fields(cls))


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda p: p.name)
def test_a_record_gives_the_profile_back(profile):
    assert profile_from_record(json.loads(json.dumps(profile.record()))) == profile


def test_a_record_that_is_none_is_a_damaged_store():
    for record in ({"name": "x"}, {**get_profile("mini").record(), "more": 1}):
        with pytest.raises(StoreCorruptError, match="cannot be understood"):
            profile_from_record(record)


# --------------------------------------------------------------------------- reading


def test_shapes_of_features_come_from_the_models(my):
    profile = load_profile(my())
    assert {e.name: (e.dim, e.grid) for e in profile.known_extractors} == {
        "sd": (64, 2),
        "clip": (32, 4),
        "dino": (24, 8),
    }
    models = Models(profile, "cpu")
    for extractor in profile.known_extractors:
        assert models.features(extractor, random_pictures(1, 64, 64)).shape[1:] == (
            extractor.dim,
            extractor.grid,
            extractor.grid,
        )


def test_what_is_given_goes_before_what_the_model_says(my):
    profile = load_profile(my(('name = "clip"\nkind', 'name = "clip"\ndim = 7\nkind')))
    assert (profile.extractors[1].dim, profile.extractors[1].grid) == (7, 4)


def test_a_folder_is_what_is_in_it_wherever_it_lies(my, tmp_path_factory):
    path = my()
    first = load_profile(path)
    other = tmp_path_factory.mktemp("elsewhere") / "place"
    shutil.copytree(path.parent, other)
    moved = load_profile(other / "my.toml")
    assert moved.digest == first.digest
    assert [e.digest for e in moved.extractors] == [e.digest for e in first.extractors]
    assert moved.clip.weights.folder == str(other / "clip")
    assert differences(first, moved) == []


@pytest.mark.parametrize("changed", ["clip/open_clip_config.json", "diffusion/unet/config.json", "dino/config.json"])
def test_any_other_file_in_a_folder_is_other_weights(my, changed):
    path = my()
    first = load_profile(path)
    file = path.parent / changed
    file.write_text(file.read_text() + "\n")
    assert load_profile(path).digest != first.digest
    assert differences(first, load_profile(path))


def test_a_folder_is_read_once_as_long_as_its_files_stay(my, monkeypatch):
    path = my()
    first = load_profile(path)
    monkeypatch.setattr("hashlib.file_digest", lambda *_: pytest.fail("read again"))
    assert load_profile(path).digest == first.digest


def test_a_cache_that_cannot_be_written_is_no_obstacle(my, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    path = my()
    assert load_profile(path).digest == load_profile(path).digest


def test_weights_that_change_behind_a_loaded_profile_are_refused(my):
    profile = load_profile(my())
    file = my().parent / "clip" / "open_clip_model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(WeightsError, match="not those that the profile was made with"):
        require_weights(profile.clip.weights)
    shutil.rmtree(file.parent)
    with pytest.raises(WeightsError, match=r"clip is gone"):
        require_weights(profile.clip.weights)


def test_files_that_do_not_count_change_nothing(my):
    path = my()
    before = load_profile(path)
    (path.parent / "clip" / "README.md").write_text("about")
    assert load_profile(path).digest == before.digest


@pytest.mark.parametrize("folder", ["./clip", "../{name}/clip", "{absolute}/clip", "link"])
def test_a_folder_may_be_anywhere(my, folder):
    path = my()
    (path.parent / "link").symlink_to("clip")
    named = folder.format(name=path.parent.name, absolute=path.parent)
    assert (
        load_profile(my(('"clip"\n[weights.dino]', f'"{named}"\n[weights.dino]'))).digest == load_profile(my()).digest
    )


def test_open_clips_own_spellings(my):
    folder = load_profile(my(('folder = "clip"', 'repo = "local-dir:clip"'))).clip.weights
    assert folder == load_profile(my()).clip.weights
    at = f'repo = "hf-hub:org/name"\nrevision = "{COMMIT}"'
    weights = read_profile(my(('folder = "clip"', at))).profile.clip.weights
    assert (weights.repo, weights.revision, weights.marker) == ("org/name", COMMIT, "open_clip_model.safetensors")


def test_a_model_of_open_clips_table_is_its_repository_on_the_hub(my):
    weights = read_profile(my(('folder = "clip"', 'open-clip = ["ViT-B-16", "openai"]'))).profile.clip.weights
    assert weights.repo == get_profile("sd15").clip.weights.repo
    for named, told in [
        ('["ViT-B-16", "opennai"]', r"line 5.*no weights of ViT-B-16, 'opennai'. There are: openai"),
        ('["ViT-B-61", "openai"]', r"no model of open_clip, 'ViT-B-61'. Did you mean 'ViT-B-16'\?"),
        ('"ViT-B-16"', r'must be a model and its weights, like \["ViT-B-16", "openai"\]'),
    ]:
        with pytest.raises(UsageError, match=told):
            read_profile(my(('folder = "clip"', f"open-clip = {named}")))


# --------------------------------------------------------------------------- what is wrong

WRONG = [
    ("image-size = 64", "image-size = 0", "generator.image-size must be from 1 to 1000000, got 0."),
    ("image-size = 64", 'image-size = "64"', 'generator.image-size must be a whole number, got "64".'),
    ("image-size = 64", "image-size = true", "generator.image-size must be a whole number, got true."),
    ("image-size = 64", "image-size = 6.5", "generator.image-size must be a whole number, got 6.5."),
    ("image-size = 64", "image_size = 64", "there is no field 'image_size' here. It is written 'image-size'."),
    ("image-size = 64", "imge-size = 64", "there is no field 'imge-size' here. Did you mean 'image-size'?"),
    ("guidance = 7", "guidance = nan", "generator.guidance must be a number, got NaN."),
    ("guidance = 7", "guidance = -1", "generator.guidance must not be less than 0, got -1."),
    ("seed = 0", "seed = -1", "generator.seed must be from 0 to 4294967295, got -1."),
    (
        'prompt = "a {name}"',
        'prompt = "a cat"',
        'generator.prompt must say where the name goes, as {name}; got "a cat".',
    ),
    ('prompt = "a {name}"', 'prompt = "{name} {x}"', "generator.prompt may have {name} and {article} in it, not {x}"),
    ('prompt = "a {name}"', 'prompt = "a {name}\\n"', "generator.prompt must be one line without control characters"),
    ('prompt = "a {name}"', "prompt = 1979-05-27", "generator.prompt must be a text in quotes"),
    ("parts = 2", 'parts = 2\nmask-method = "otsi"', "must be one of 'otsu', 'fixed', 'self-attention', 'sam'; got"),
    ("parts = 2", "parts = 2\nparts-2 = {}", "there is no field 'parts-2' here. Did you mean 'parts'?"),
    (
        'weights = "sd"\nimage',
        'weights = "sdd"\nimage',
        "names weights that are nowhere: a table [weights.sdd] is needed.",
    ),
    ('weights = "sd"\nimage', 'weights = "clip"\nimage', "names the weights 'clip' as a model of kind clip"),
    ("mean = [0.5, 0.5, 0.5]", "mean = [0.5, 0.5]", "clip.mean must be 3 values, got 2."),
    ("mean = [0.5, 0.5, 0.5]", "mean = 0.5", "clip.mean must be an array of values"),
    ("std = [0.5, 0.5, 0.5]", "std = [0.5, 0, 0.5]", "clip.std[2] must be more than 0, got 0."),
    ('best = "gem"', 'best = "gemm"', "clip.best names no method that reads words, 'gemm'. Did you mean 'gem'?"),
    ('best = "gem"', 'best = "prototype"', "clip.best names no method that reads words"),
    ('best = "gem"', 'best = "proxyclip"', "clip.best is proxyclip, which needs the features of an extractor"),
    ('layers = ["up_blocks.1.attentions.0"]', "layers = []", "regions.layers must not be empty."),
    (
        'layers = ["up_blocks.1.attentions.0"]',
        'layers = [\n  "mid_block.attentions.0",\n  "up.1",\n]',
        'regions.layers[2] must be a layer of a UNet, like "up_blocks.1.attentions.0"',
    ),
    ('name = "clip"', 'name = "sd"', "extractors[2].name is 'sd', as that of the extractor in line 33"),
    ('name = "clip"', 'name = "a,b"', "extractors[2].name must be a short word without blanks and commas"),
    ('kind = "clip-key"', 'kind = "clip-keys"', "Did you mean 'clip-key'?"),
    ('layers = ["-1"]', 'layers = ["last"]', 'extractors[2].layers must be one block of the network, like ["-1"]'),
    ("timestep = 200", "", "extractors[1] timestep is missing: an extractor of kind unet-query needs it."),
    ("timestep = 200", "timestep = 1000", "extractors[1].timestep must be from 0 to 999, got 1000."),
    (
        'kind = "clip-key"',
        'kind = "clip-key"\ntimestep = 1',
        "extractors[2].timestep belongs to extractors of kind unet-query",
    ),
    (
        'folder = "clip"',
        'folder = "clip"\nrepo = "a/b"',
        "must name one of repo, folder, bundled and open-clip, got repo and folder",
    ),
    ('folder = "clip"', "", "must name one of repo, folder, bundled and open-clip, got none of them"),
    ('folder = "clip"', 'folder = "clop"', "weights.clip.folder names no folder:"),
    ('folder = "clip"', 'folder = "my.toml"', "weights.clip.folder names no folder:"),
    ('folder = "clip"', 'repo = "clip"', "weights.clip.repo must be a model of the hub"),
    ('folder = "clip"', 'repo = "../clip"', "weights.clip.repo must be a model of the hub"),
    ('folder = "clip"', 'bundled = "mini/../../x"', "weights.clip.bundled must be one of mini/diffusion, mini/clip"),
    (
        'folder = "clip"',
        'bundled = "mini/clip"\nlicence = "x"',
        "weights.clip.licence cannot be said of bundled weights",
    ),
    (
        'folder = "clip"',
        'folder = "clip"\nfiles = ["../x"]',
        "weights.clip.files must be names inside the model's folder",
    ),
    (
        'folder = "clip"',
        'folder = "clip"\nmarker = "/etc/passwd"',
        "weights.clip.marker must be names inside the model's",
    ),
    (
        'folder = "clip"',
        'folder = "clip"\nmarker = "model.bin"',
        'could run code: allow it with allow-pickle = ["model.bin"]',
    ),
    ('folder = "clip"', 'folder = "clip"\nallow-pickle = true', "weights.clip.allow-pickle must be an array of values"),
    ('folder = "clip"', 'folder = "clip"\nallow-pickle = ["*.bin"]', "allow-pickle[1] must be the name of one pickle"),
    ('folder = "clip"', 'folder = "clip"\nallow-pickle = ["x.bin"]', "which has no x.bin."),
    ('folder = "clip"', 'folder = "clip"\nrevision = "sha256:0"', "weights.clip.revision is not that of the folder"),
    ('folder = "clip"', 'folder = "clip"\ntrust-remote-code = true', "there is no field 'trust-remote-code' here."),
    ("[regions]", "proxy = 'dino'\n[regions]", "there is no field 'proxy' here."),
    (
        "short-side = 64",
        "short-side = 64\nwindows = [[32, 64]]",
        "inference.windows[1] would leave gaps: the stride 64",
    ),
    (
        "short-side = 64",
        "short-side = 64\nwhole-image = false",
        "inference without windows, the whole image must be looked at.",
    ),
    (
        "short-side = 64",
        "short-side = 64\n[inference.sight]\nunsquashed = ['clip']",
        "of kind vit-key (dino), got 'clip'",
    ),
    ("[inference]", "[[inference]]", "inference must be a table of fields, got"),
    ("[[extra-extractors]]", "[extra-extractors]", "extra-extractors must be an array of tables, each under [[ ]]"),
    ("[inference]\nshort-side = 64\n", "", "my.toml: inference is missing: windows."),
    ("parts = 2", "", "generator parts is missing: k-means part centroids per role"),
    ("[weights.sd]", "[weight.sd]", "there is no field 'weight' here. Did you mean 'weights'?"),
    ("short-side = 64", "short-side = 64\n[hybrid]\nweight = 2", "hybrid.weight must be from 0 to 1, got 2."),
    (
        "short-side = 64",
        'short-side = 64\n[[clip.tuned]]\nmethods=["gemm"]\nvalues=[["x", 1]]',
        "names no method, 'gemm'",
    ),
    (
        "short-side = 64",
        'short-side = 64\n[[clip.tuned]]\nmethods=["gem"]\nvalues=[["x", 1]]',
        "names no number of gem, 'x'",
    ),
]


@pytest.mark.parametrize(
    ("old", "new", "told"), WRONG, ids=[re.sub(r"\W+", "-", new)[:40] or told for _, new, told in WRONG]
)
def test_what_is_wrong_is_told_with_its_line(my, old, new, told):
    path = my((old, new))
    with pytest.raises(UsageError) as caught:
        load_profile(path)
    message = str(caught.value)
    assert told in message
    assert "\n" not in message
    assert message.startswith(str(path))
    found = re.search(r"my\.toml, line (\d+): (?:there is no field '([^']+)'|([\w.\[\]-]+))", message)
    if "my.toml: " not in message:  # what is missing in the file as a whole has no line
        line = path.read_text().splitlines()[int(found[1]) - 1]
        key = (found[2] or found[3].split(".")[-1]).partition("[")[0]
        assert key in line or line.startswith("[") or re.match(r'\s*"', line)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("my.toml", "", "is empty. Write one to start from"),
        ("my.toml", "# only a comment\n", "is empty"),
        ("mini.toml", MINIMAL, "the name of a profile of ovseg's own"),
        ("a b.toml", MINIMAL, "a name that no profile can have"),
    ],
)
def test_a_file_that_is_none(tmp_path, name, content, told):
    (tmp_path / name).write_text(content)
    with pytest.raises(UsageError, match=told):
        get_profile(str(tmp_path / name))


@pytest.mark.parametrize("name", ["x.txt", "x.lock.toml", "sd15.toml", "a,b.toml", ".toml"])
def test_a_file_with_another_name_is_not_written(tmp_path, name):
    with pytest.raises(UsageError):
        write_profile(tmp_path / name, get_profile("mini"))
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_not_written_over(tmp_path):
    (tmp_path / "my.toml").symlink_to("nowhere")
    with pytest.raises(UsageError, match="is there already"):
        write_profile(tmp_path / "my.toml", get_profile("mini"))


# --------------------------------------------------------------------------- by name


def test_profiles_of_the_users_folder_go_by_their_names(my, caplog):
    folder = own_folder()
    assert own_files() == {}
    folder.mkdir(parents=True)
    text = MINIMAL.replace('folder = "', f'folder = "{my().parent}/')
    (folder / "mine.toml").write_text(text)
    (folder / "mine.lock.toml").write_text("")
    (folder / "broken.toml").write_text("x = ")
    (folder / "notes.txt").write_text("")
    assert list(own_files()) == ["broken", "mine"]
    assert get_profile("mine").name == "mine"
    assert (
        fetch_command(get_profile("mine").extra_extractors[0].weights) == "ovseg pull --profile mine --extractors dino"
    )
    readings, broken = own_profiles()
    assert [reading.profile.name for reading in readings] == ["mine"]
    assert [path.name for path in broken] == ["broken.toml"]
    with pytest.raises(UsageError, match=r"broken\.toml, line 1"):
        get_profile("broken")
    with pytest.raises(
        UsageError, match=r"Unknown profile 'minee'. Did you mean 'mine'\? Known profiles: mini, sd15, "
    ):
        get_profile("minee")


def test_a_file_of_that_name_is_offered(my, monkeypatch):
    monkeypatch.chdir(my().parent)
    with pytest.raises(UsageError, match=r"Unknown profile 'my'.*--profile ./my.toml$"):
        get_profile("my")
    assert get_profile("./my.toml") == get_profile("my.toml")


# --------------------------------------------------------------------------- pinning


@pytest.fixture
def hub(monkeypatch):
    """A hub that answers, and remembers what it was asked."""
    asked = []
    files = {"open_clip_model.safetensors": 600, "open_clip_config.json": 1, "model.safetensors": 600, "README.md": 9}

    class Api:
        def model_info(self, repo, *, revision, files_metadata):
            asked.append((repo, revision))
            if isinstance(files, Exception):
                raise files
            siblings = [SimpleNamespace(rfilename=name, size=size) for name, size in hub.files.items()]
            return SimpleNamespace(sha=COMMIT, siblings=siblings)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    hub = SimpleNamespace(asked=asked, files=files)
    return hub


UNPINNED = ('folder = "clip"', 'repo = "org/name"')


def test_a_revision_that_is_left_out_is_pinned_once(my, hub):
    path = my(UNPINNED)
    with pytest.raises(
        UsageError, match=r"my.toml, line 4: the weights 'clip' have no pinned revision.*ovseg pull --profile"
    ):
        load_profile(path)
    before = path.read_text()
    assert pin_profile(path) == lock_of(path) == path.parent / "my.lock.toml"
    assert path.read_text() == before
    assert hub.asked == [("org/name", None)]
    weights = read_profile(path).profile.clip.weights
    assert (weights.revision, weights.nbytes) == (COMMIT, 601)
    assert pin_profile(path) is None
    assert len(hub.asked) == 1


def test_a_branch_is_pinned_and_another_one_anew(my, hub):
    path = my(('folder = "clip"', 'repo = "org/name"\nrevision = "v2"'))
    pin_profile(path)
    assert hub.asked == [("org/name", "v2")]
    assert read_profile(path).unpinned == {}
    assert read_profile(my(('folder = "clip"', 'repo = "org/name"\nrevision = "v3"'))).unpinned == {"clip": "v3"}
    assert read_profile(my(('folder = "clip"', 'repo = "org/other"\nrevision = "v2"'))).unpinned == {"clip": "v2"}
    assert read_profile(my(UNPINNED)).unpinned == {"clip": None}


def test_a_commit_in_the_file_needs_no_lock(my, hub):
    path = my(('folder = "clip"', f'repo = "org/name"\nrevision = "{COMMIT}"'))
    assert pin_profile(path) is None
    assert hub.asked == []
    with pytest.raises(UsageError, match=r"'clip' has no dim and grid, and its model is not on this machine"):
        load_profile(path)


def test_what_open_clip_said_is_kept_in_the_lock(my, hub, monkeypatch):
    path = my(('folder = "clip"', 'open-clip = ["ViT-B-16", "openai"]'))
    pin_profile(path)
    monkeypatch.setattr("open_clip.pretrained.get_pretrained_cfg", lambda *_: pytest.fail("asked again"))
    assert read_profile(path).profile.clip.weights.revision == COMMIT


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (["open_clip_pytorch_model.bin"], r"only open_clip_pytorch_model.bin, which are pickles.*allow-pickle"),
        (["model.safetensors"], "It has model.safetensors: name the one to load as marker"),
        (["README.md"], "no weights that ovseg could load"),
    ],
)
def test_a_repository_without_safetensors_is_told_before_anything_is_fetched(my, hub, files, told):
    hub.files = dict.fromkeys(files, 1)
    path = my(UNPINNED)
    with pytest.raises(
        WeightsError, match=f"org/name has no open_clip_model.safetensors, and nothing was fetched of it. .*{told}"
    ):
        pin_profile(path)
    assert not lock_of(path).exists()


def test_a_pickle_that_is_allowed_by_name_is_fetched(my, hub):
    hub.files = {"open_clip_pytorch_model.bin": 7, "open_clip_config.json": 1}
    path = my(('folder = "clip"', 'repo = "org/name"\nallow-pickle = ["open_clip_pytorch_model.bin"]'))
    pin_profile(path)
    weights = read_profile(path).profile.clip.weights
    assert weights.marker == "open_clip_pytorch_model.bin"
    assert weights.nbytes == 8


def test_a_hub_that_does_not_answer_is_one_line(my):
    path = my(UNPINNED)
    with pytest.raises(WeightsError, match=r"does not tell about org/name \(OfflineModeIsEnabled") as caught:
        pin_profile(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(WeightsError, match="without --offline"):
        pin_profile(path, offline=True)


def test_a_lock_that_somebody_spoilt_is_told(my):
    path = my(UNPINNED)
    lock_of(path).write_text("weights = 1")
    with pytest.raises(UsageError, match=r"my.lock.toml is not what ovseg pull writes. Delete it"):
        load_profile(path)


# --------------------------------------------------------------------------- nothing runs


class Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/ovseg-evil",)


def test_a_pickle_is_not_read_unless_it_is_allowed_and_then_runs_nothing(my, tmp_path):
    path = my(("layers", "layers"))
    clip = path.parent / "clip"
    (clip / "open_clip_model.safetensors").rename(clip / "kept")
    (clip / "open_clip_pytorch_model.bin").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(
        UsageError, match=r"has no open_clip_model.safetensors. There is open_clip_pytorch_model.bin, a pickle"
    ):
        load_profile(path)
    allowed = load_profile(my(('folder = "clip"', 'folder = "clip"\nallow-pickle = ["open_clip_pytorch_model.bin"]')))
    with pytest.raises(WeightsError, match="cannot be loaded"):
        _ = Models(allowed, "cpu").clip
    assert not os.path.exists("/tmp/ovseg-evil")


def test_a_pickle_with_tensors_is_read_when_it_is_allowed(my):
    from safetensors.torch import load_file

    path = my()
    clip = path.parent / "clip"
    tensors = load_file(clip / "open_clip_model.safetensors")
    expected = Models(load_profile(path), "cpu").clip.embed_text(["cat"], ("{name}",))
    torch.save(tensors, clip / "open_clip_pytorch_model.bin")
    (clip / "open_clip_model.safetensors").unlink()
    allowed = load_profile(my(('folder = "clip"', 'folder = "clip"\nallow-pickle = ["open_clip_pytorch_model.bin"]')))
    assert torch.equal(Models(allowed, "cpu").clip.embed_text(["cat"], ("{name}",)), expected)


@pytest.mark.parametrize("marker", ["model.safetensors"])
def test_a_pickle_that_open_clip_would_prefer_is_refused(my, marker):
    path = my(('folder = "clip"', f'folder = "clip"\nmarker = "{marker}"'))
    clip = path.parent / "clip"
    (clip / "open_clip_model.safetensors").rename(clip / marker)
    profile = load_profile(path)
    assert Models(profile, "cpu").clip
    (clip / "open_clip_pytorch_model.bin").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(WeightsError, match=r"would be read from open_clip_pytorch_model\.bin, a pickle"):
        _ = Models(profile, "cpu").clip


def test_a_pipeline_with_code_of_its_own_is_refused(my):
    path = my()
    index = path.parent / "diffusion" / "model_index.json"
    data = json.loads(index.read_text())
    (path.parent / "diffusion" / "unet" / "mine.py").write_text("open('/tmp/ovseg-evil', 'w')\n")
    for change in ({"unet": ["mine", "Unet"]}, {"_class_name": ["mine", "Pipeline"]}):
        index.write_text(json.dumps({**data, **change}))
        with pytest.raises(WeightsError, match="which would run code"):
            _ = Models(load_profile(path), "cpu").generator
    assert not os.path.exists("/tmp/ovseg-evil")


def test_a_clip_with_code_or_another_model_of_the_hub_is_refused(my):
    folder = my().parent / "clip"
    (folder / "tokenizer_config.json").write_text(json.dumps({"auto_map": {"AutoTokenizer": ["x.Y", None]}}))
    with pytest.raises(WeightsError, match="code of its own"):
        refuse_code(folder, "clip")
    (folder / "tokenizer_config.json").unlink()
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["hf_model_name"] = "org/bert"
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match="'org/bert', another model of the hub"):
        refuse_code(folder, "clip")


def test_a_vit_with_code_of_its_own_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit", "auto_map": {"AutoModel": "evil.Evil"}}))
    with pytest.raises(WeightsError, match=r"config\.json names code of its own"):
        refuse_code(tmp_path, "vit")


def test_nothing_asks_to_trust_code():
    package = MINI_FOLDER.parents[1]
    for file in package.rglob("*.py"):
        assert not re.search(r"trust_remote_code\s*=\s*(?!False)", file.read_text(encoding="utf-8")), file


# --------------------------------------------------------------------------- stores


def test_a_store_keeps_the_profile_whatever_becomes_of_its_file(my, caplog):
    path = my()
    with Store.open(path.parent / "S", profile=str(path)) as store:
        kept = profile_of(store)
    assert kept == load_profile(path)
    path.unlink()
    with Store.open(path.parent / "S") as store:
        assert profile_of(store) == kept
        assert store.profile_name == "my"
    assert caplog.records == []
    path.write_text("x = ")
    with Store.open(path.parent / "S") as store:
        assert profile_of(store) == kept
    assert "my.toml, line 1" in caplog.text
    assert "goes on with what it has kept" in caplog.text


def full(monkeypatch):
    monkeypatch.setattr(Store, "class_names", lambda self: ["cat"])


def test_a_changed_file_does_not_meet_old_prototypes(my, monkeypatch, caplog):
    path = my()
    with Store.open(path.parent / "S", profile=str(path)) as store:
        kept = profile_of(store)
    full(monkeypatch)
    my(("guidance = 7", "guidance = 8"))
    with pytest.raises(
        ProfileMismatchError, match=r"another state of the profile .*generator.guidance was 7.0, is 8.0"
    ):
        Store.open(path.parent / "S", profile=str(path))
    with Store.open(path.parent / "S") as store:
        assert profile_of(store) == kept
    assert "generator.guidance was 7.0, is 8.0" in caplog.text
    assert "goes on with what its prototypes were made with" in caplog.text


def test_what_only_tells_may_change(my, monkeypatch, caplog):
    path = my()
    Store.open(path.parent / "S", profile=str(path)).close()
    full(monkeypatch)
    my(("[weights.sd]", 'summary = "Mine."\n[weights.sd]\nlicence = "MIT"'))
    with Store.open(path.parent / "S", profile=str(path)) as store:
        assert profile_of(store).summary == "Mine."
    assert caplog.records == []


def test_a_store_without_classes_takes_the_changed_file(my):
    path = my()
    Store.open(path.parent / "S", profile=str(path)).close()
    my(("guidance = 7", "guidance = 8"))
    with Store.open(path.parent / "S", profile=str(path)) as store:
        assert profile_of(store).generator.guidance == 8


def test_folders_that_moved_are_found_at_their_new_place(my, monkeypatch, tmp_path_factory):
    path = my()
    Store.open(path.parent / "S", profile=str(path)).close()
    full(monkeypatch)
    other = tmp_path_factory.mktemp("elsewhere") / "place"
    shutil.move(path.parent, other)
    with Store.open(other / "S") as store, pytest.raises(WeightsError, match=r"is gone.*new place"):
        require_weights(profile_of(store).clip.weights)
    Store.open(other / "S", profile=str(other / "my.toml")).close()
    with Store.open(other / "S") as store:
        assert require_weights(profile_of(store).clip.weights) == other / "clip"


def test_a_store_of_ovsegs_own_profile_is_not_that_of_a_file(my, monkeypatch):
    path = my()
    Store.open(path.parent / "S", profile="mini").close()
    full(monkeypatch)
    with pytest.raises(ProfileMismatchError, match="made with profile 'mini', not"):
        Store.open(path.parent / "S", profile=str(path))
    Store.open(path.parent / "T", profile=str(path)).close()
    with pytest.raises(ProfileMismatchError, match="made with profile 'my', not 'mini'"):
        Store.open(path.parent / "T", profile="mini")


def test_a_folder_with_too_many_files_is_none_of_a_model(tmp_path):
    for number in range(2100):
        (tmp_path / str(number)).touch()
    with pytest.raises(WeightsError, match="more than 2000 files"):
        folder_revision(tmp_path, ["config.json"])
