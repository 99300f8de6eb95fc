"""The card of a version, from what a run folder holds."""

import json
import shlex

from keras_aploss import RunSettings
from keras_aploss.cli.train import train
from keras_aploss.runs.card import model_card, read_evaluation

GIVEN = {"image_size": 64, "units": 128, "max_pixels": 1000}


def test_a_run_is_described(finished_run, tiny_settings):
    evaluation = read_evaluation(finished_run.folder)
    card = model_card("tiny", settings=tiny_settings, evaluation=evaluation, **GIVEN)
    row = evaluation["metrics"]["after training"]
    shown = f"| after training | {row['map']:.3f} | {row['recall_at_1']:.3f} |"
    assert shown in card
    assert "16 queries of 4 classes never seen in training, 16 images. They" in card
    assert "epochs" not in card.split("```")[2].split("##")[0]
    assert f"was trained, on images of {tiny_settings.image_size} px; another" in card
    assert "6 drawn buildings" in card
    assert "1,000 pixels" in card
    # The recipe, read by the command line, gives the settings of the run.
    recipe = card.split("```sh\n")[1].split("\n```")[0]
    program, command, *options = shlex.split(recipe)
    assert (program, command) == ("keras-aploss", "train")
    read = train.make_context("train", options).params
    settings = {name: read[name] for name in vars(tiny_settings)}
    assert RunSettings(**settings) == tiny_settings


def test_a_name_that_is_not_utf8_can_be_written():
    card = model_card("tiny", settings=RunSettings(data="/data/ph\udcf6tos"), **GIVEN)
    assert r"`ph\udcf6tos`: your own" in card.encode().decode()


def test_what_is_not_known_is_not_invented(tmp_path):
    card = model_card("tiny", **GIVEN)
    assert card.count("Not known") == 2
    assert "Not measured" in card
    assert "scales" not in card.split("## Signatures")[1]
    for text in ("{", "[]", '{"metrics": 3}'):
        (tmp_path / "evaluation").mkdir(exist_ok=True)
        (tmp_path / "evaluation" / "evaluation.json").write_text(text)
        assert read_evaluation(tmp_path) is None


def test_what_the_export_added_is_named_and_paths_are_not():
    settings = RunSettings(
        data="/home/somebody/my photos/",
        weights="/home/somebody/w.h5",
        exclude_self=True,
    )
    more = {"scales": (1.0, 0.5), "whitened": True, "settings": settings}
    card = model_card("tiny", **more, **GIVEN)
    assert "the scales 1, 0.5, a whitening" in card
    assert "somebody" not in card
    assert "--data 'my photos' --weights w.h5 --exclude-self" in card


def test_a_metric_that_has_no_value_is_left_out():
    figures = json.loads('{"metrics": {"model": {"map": null, "recall_at_1": 0.5}}}')
    card = model_card("tiny", evaluation=figures, **GIVEN)
    assert "| model |  | 0.500 |  |" in card


def test_what_the_figures_are_of_is_what_was_found():
    """It said "not trained on", whatever the warning before had said."""
    figures = {"metrics": {}, "num_queries": 9, "num_images": 10, "num_classes": 3}
    figures["num_classes_seen_in_training"] = 3
    card = model_card("tiny", evaluation=figures, **GIVEN)
    assert "9 queries of 3 classes, all of them seen in training, 10 images." in card
    figures["num_classes_seen_in_training"] = None
    card = model_card("tiny", evaluation=figures, **GIVEN)
    assert "whether classes of the training are among them is not known." in card
    del figures["num_classes"], figures["num_classes_seen_in_training"]  # of before
    card = model_card("tiny", evaluation=figures, **GIVEN)
    assert "9 queries, 10 images; whether classes of the training" in card
    assert "never seen" not in card


def test_how_far_the_training_went_is_told():
    settings = RunSettings(epochs=5)
    more = {"settings": settings, **GIVEN}
    for epochs in (0, 2):
        card = model_card("tiny", epochs=epochs, is_finished=False, **more)
        text = f"not finished: this is the model after {epochs} of 5 epochs."
        assert text in card.split("## Recipe")[1].split("##")[0]
    best = model_card("tiny", epochs=2, **more)
    assert "the model after 2 of 5 epochs, those with the highest mAP" in best
    assert "finished" not in best
    assert "of 5 epochs" not in model_card("tiny", epochs=5, **more)
