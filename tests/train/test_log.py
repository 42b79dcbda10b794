"""What a training says of an epoch."""

from carpose.train.log import Log


def test_a_loss_that_outweighs_the_others_is_named(capsys):
    row = {"epoch": 1, "loss": 1.0, "heatmap": 0.5, "offset": 0.1, "rotation": 0.04}
    weights = {"heatmap": 2.0, "offset": 4.0, "rotation": 30.0}
    Log("round0").epoch(row, 3, weights)
    assert capsys.readouterr().out == "[round0] epoch 1/3  loss 1  heatmap 0.5  offset 0.1  rotation 0.04\n"
    Log("round0").epoch(row | {"rotation": -1.0}, 3, weights)
    warning = "the rotation loss outweighs the others tenfold; lower loss_weights.rotation"
    assert warning in capsys.readouterr().out
