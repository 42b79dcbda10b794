"""Checkpoints of one model's folds → networks; what is not right is said."""

import pytest

from carpose.core import version
from carpose.core.errors import UserError
from carpose.predict.networks import load_networks
from models.predictor import Predictor
from tests.predict.small import CPU, RECIPE, checkpoint


def test_all_folds_have_one_recipe(tmp_path):
    first, other = checkpoint(tmp_path / "a0.pt", seed=1), checkpoint(tmp_path / "a1.pt", seed=2)
    networks, recipe = load_networks([first, other], CPU)
    assert [type(network) for network in networks] == [Predictor, Predictor] and recipe == RECIPE
    changed = checkpoint(tmp_path / "changed.pt", epochs=7)
    with pytest.raises(UserError, match=r"changed.pt: its recipe differs from .*a0.pt"):
        load_networks([first, changed], CPU)


def test_a_fold_s_network_predicts_its_own_photos_alone(tmp_path):
    """Given for another fold it would predict photos that it has learnt from, and call that out of fold."""
    folds = [checkpoint(tmp_path / f"{fold}.pt", provenance={"fold": fold}) for fold in (0, 1)]
    load_networks(folds, CPU)
    with pytest.raises(UserError, match="1.pt: is the model of fold 1 given as fold 0's"):
        load_networks(folds[::-1], CPU)


def test_networks_of_other_code_are_said(tmp_path, capsys):
    own = checkpoint(tmp_path / "own.pt")
    load_networks([own], CPU)
    assert capsys.readouterr().out == ""
    about = {"code": "0.0.1+old", "code_digest": "0123"}
    other = checkpoint(tmp_path / "other.pt", provenance=about)
    load_networks([own, other], CPU)
    (line,) = capsys.readouterr().out.splitlines()
    for word in ("1 of 2", "other.pt", "0.0.1+old", version.code_version(), "-R train"):
        assert word in line
