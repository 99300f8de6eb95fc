"""The settings of a run: checked when they are made, the same in every form."""

import dataclasses
import json

import pytest
from hypothesis import given, strategies as st

from keras_aploss import RunSettings

CHANGED = {"data": "photos", "units": 32, "learning_rate": 0.5, "augment": False}


def test_settings_survive_their_file(tmp_path):
    settings = RunSettings(**CHANGED)
    settings.save(tmp_path / "settings.json")
    assert RunSettings.load(tmp_path / "settings.json") == settings
    saved = json.loads((tmp_path / "settings.json").read_text())
    assert list(saved) == [field.name for field in dataclasses.fields(RunSettings)]


def test_a_file_of_version_0_1_is_read(tmp_path):
    """It holds a batch size beside the two numbers that make it."""
    for size, wanted in ((0, (16, 4)), (64, (16, 4)), (100, (25, 4)), (6, None)):
        values = {"classes_per_batch": 16, "images_per_class": 4, "batch_size": size}
        (tmp_path / "old.json").write_text(json.dumps(values))
        if wanted:
            loaded = RunSettings.load(tmp_path / "old.json")
            assert (loaded.classes_per_batch, loaded.images_per_class) == wanted
            continue
        with pytest.raises(ValueError, match=r"old\.json.*batch_size=6\. Choose"):
            RunSettings.load(tmp_path / "old.json")


@given(size=st.integers(1, 5000), images=st.integers(2, 64))
def test_a_batch_size_chooses_the_number_of_classes(size, images):
    settings = RunSettings(images_per_class=images)
    dividing = [n for n in range(2, size // images + 1) if size % n == 0]
    if not dividing:
        with pytest.raises(ValueError, match=f"Received: batch_size={size}"):
            settings.replace(batch_size=size)
        return
    settings = settings.replace(batch_size=size)
    assert settings.batch_size == size
    assert settings.classes_per_batch == max(dividing)
    assert settings.images_per_class >= images


@pytest.mark.parametrize("size", [-4, 4.0, True, "4"])
def test_a_batch_size_is_a_number_of_images(size):
    with pytest.raises(ValueError, match=r"`batch_size` to be of type int"):
        RunSettings().replace(batch_size=size)


@pytest.mark.parametrize("size", [10**10, 10**10 + 19])  # one has no divisors
def test_a_batch_that_no_step_can_hold_is_refused_at_once(size):
    with pytest.raises(ValueError, match=r"at most 1,048,576 images.*10,000,000,0"):
        RunSettings().replace(batch_size=size)
    with pytest.raises(ValueError, match="at most 1,048,576 images"):
        RunSettings(classes_per_batch=2**30)
    assert RunSettings().replace(batch_size=2**20).batch_size == 2**20


def test_a_file_may_name_some_settings_only(tmp_path):
    (tmp_path / "some.json").write_text('{"epochs": 3, "cache_gib": 1}')
    loaded = RunSettings.load(tmp_path / "some.json")
    assert loaded == RunSettings(epochs=3, cache_gib=1.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"epochs": 3', "cannot be read"),
        ("", "cannot be read"),
        ("[1, 2]", "no object of settings"),
        ("null", "no object of settings"),
        ('{"epoch": 3, "zeal": 1}', r"unknown settings: epoch, zeal\."),
        ('{"epochs": "3"}', "`epochs` to be of type int.*epochs='3'"),
        ('{"epochs": true}', "`epochs` to be of type int"),
        ('{"epochs": 3.0}', "`epochs` to be of type int"),
        ('{"augment": 1}', "`augment` to be of type bool"),
        ('{"data": null}', "`data` to be of type str"),
        ('{"learning_rate": NaN}', "`learning_rate` to be not negative.*=nan"),
        ("[" * 100_000, "cannot be read"),
    ],
)
def test_a_wrong_file_is_named_with_its_fault(tmp_path, text, message):
    (tmp_path / "wrong.json").write_text(text)
    with pytest.raises(ValueError, match=rf"wrong\.json.*{message}"):
        RunSettings.load(tmp_path / "wrong.json")


def test_a_file_that_is_no_text_or_missing_is_named(tmp_path):
    (tmp_path / "wrong.json").write_bytes(b"\xff\xfe\x00")
    for name in ("wrong.json", "none.json"):
        with pytest.raises(ValueError, match=rf"{name}.*cannot be read"):
            RunSettings.load(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("epochs", -1, "not negative"),
        ("image_size", -1, "not negative"),
        ("images_per_class", 1, "at least 2"),
        ("classes_per_batch", 1, "at least 2"),
        ("test_fraction", 1.0, "above 0 and below 1"),
        ("crop_scale", 0.0, "above 0 and at most 1"),
        ("learning_rate", -1e-3, "not negative"),
        ("learning_rate", float("inf"), "not negative"),
        ("weight_decay", -0.1, "not negative"),
        ("whitening_power", 1.1, "between 0 and 1"),
        ("seed", -1, "not negative"),
        ("seed", 2**32, "below 2[*][*]32"),
        ("steps_per_epoch", 10**30, "below 2[*][*]32"),
        ("cache_gib", 10**400, "not negative"),
        ("pooling", "mean", "'gem', 'average', 'max', 'cls' or 'cls[+]gem'"),
        ("data", "", "not empty"),
    ],
)
def test_values_out_of_range_are_refused(name, value, wanted):
    with pytest.raises(ValueError, match=f"`{name}` to be {wanted}. Received: {name}="):
        RunSettings(**{name: value})


def test_every_setting_has_a_help_text_and_a_plain_type():
    for field in dataclasses.fields(RunSettings):
        assert field.metadata["help"].endswith(".")
        assert field.type is type(field.default)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ("landmarks", "landmarks"),
        ("/data/photos.v2/", "photos.v2"),
        ("/data/list.csv", "list"),
        ("/", "model"),
        # With an id of its own: a name that is not UTF-8 ends a parallel run of tests.
        pytest.param("/data/ph\udcf6tos", "ph-tos", id="not UTF-8"),
    ],
)
def test_the_model_is_named_after_its_data(data, name):
    assert RunSettings(data=data).model_name == name
    assert RunSettings(data=data, name="mine").model_name == "mine"


def test_the_model_of_the_current_folder_has_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert RunSettings(data=".").model_name == tmp_path.name
