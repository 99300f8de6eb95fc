"""How far the training of a model went, by the files of its run."""

import shutil

import pytest

from keras_aploss.runs import open_model


def state_of(path):
    trained = open_model(path)
    return trained.epochs, trained.is_finished, trained.state


def test_the_files_of_a_finished_run_are_of_their_epochs(finished_run, caplog):
    folder = finished_run.folder
    for path in (folder, folder / "model.keras", folder / "last.keras"):
        assert state_of(path) == (3, True, "3 of 3 epochs")
    assert not caplog.text


def test_the_best_epoch_is_that_of_the_highest_map(unfinished_run):
    folder = unfinished_run(3)
    rows = "epoch,step,val_map\n1,4,0.2\n2,8,0.7\n3,12,0.7\n"
    (folder / "history.csv").write_text(rows)
    assert state_of(folder / "best.keras") == (2, False, "2 of 5 epochs")
    rows = "epoch,step\n1,4\n2,8\n3,12\n4,16\n5,20\n"
    (folder / "history.csv").write_text(rows)
    assert state_of(folder / "best.keras")[1]


@pytest.mark.parametrize("epochs", [0, 3])
def test_the_files_of_an_unfinished_run_are_told(unfinished_run, caplog, epochs):
    folder = unfinished_run(epochs)
    assert state_of(folder) == (epochs, False, f"{epochs} of 5 epochs")
    assert f"is not finished: the model is that after {epochs} of 5 epochs" in (
        caplog.text
    )
    best, is_finished, _ = state_of(folder / "best.keras")
    assert not is_finished
    assert best <= epochs


def test_a_history_that_is_ahead_of_the_model_does_not_count(unfinished_run):
    """What a kill leaves between the two."""
    folder = unfinished_run(3)
    path = folder / "history.csv"
    header, *rows = path.read_text().splitlines()
    cells = dict(zip(header.split(","), rows[-1].split(","), strict=True))
    cells |= {"epoch": "4", "step": str(2 * int(cells["step"]))}
    path.write_text("\n".join([header, *rows, ",".join(cells.values()), ""]))
    assert state_of(folder) == (3, False, "3 of 5 epochs")


def test_without_its_history_it_is_not_known(unfinished_run, caplog):
    folder = unfinished_run(3)
    (folder / "history.csv").unlink()
    assert state_of(folder) == (None, False, "")
    assert "an unknown number of epochs" in caplog.text


def test_a_file_outside_a_run_tells_nothing(finished_run, tmp_path):
    path = shutil.copyfile(finished_run.folder / "last.keras", tmp_path / "last.keras")
    trained = open_model(path, 16)
    assert (trained.epochs, trained.is_finished, trained.state) == (None, True, "")
