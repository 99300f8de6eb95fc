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
    assert f"{evaluation['num_queries']} queries" in card
    assert "6 drawn buildings" in card
    assert "1,000 pixels" in card
    # The recipe, read by the command line, gives the settings of the run.
    recipe = card.split("```sh\n")[1].split("\n```")[0]
    program, command, *options = shlex.split(recipe)
    assert (program, command) == ("keras-aploss", "train")
    read = train.make_context("train", options).params
    settings = {name: read[name] for name in vars(tiny_settings)}
    assert RunSettings(**settings) == tiny_settings


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
    settings = RunSettings(data="/home/somebody/my photos/", exclude_self=True)
    more = {"scales": (1.0, 0.5), "whitened": True, "settings": settings}
    card = model_card("tiny", **more, **GIVEN)
    assert "the scales 1, 0.5, a whitening" in card
    assert "somebody" not in card
    assert "--data 'my photos' --exclude-self" in card


def test_a_metric_that_has_no_value_is_left_out():
    figures = json.loads('{"metrics": {"model": {"map": null, "recall_at_1": 0.5}}}')
    card = model_card("tiny", evaluation=figures, **GIVEN)
    assert "| model |  | 0.500 |  |" in card
