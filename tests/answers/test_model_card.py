"""What the model card says of the images behind its score."""

import pytest

from kdtune.answers.model_card import Given, card
from kdtune.answers.winner import Winner
from kdtune.study.holdout import Holdout
from tests.support.tiny import config, finished


@pytest.mark.parametrize(
    ("held_out", "evaluated_on", "images", "chosen_on"),
    [
        (False, "val", "on the validation images of demo", "the same images chose the hyperparameters"),
        (True, "val", "on the validation images of demo", "other images, held out of the training split, chose"),
        (True, "holdout", "on the images of the training split, held out, of demo", "the same images chose"),
    ],
)
def test_it_says_on_which_images_it_was_chosen_and_measured(
    held_out: bool, evaluated_on: str, images: str, chosen_on: str
) -> None:
    which = config().model_copy(update={"select_on": Holdout() if held_out else "val", "evaluated_on": evaluated_on})
    row = finished("final", 20.0)["row"] | {"finished_at": None}
    won = Winner(row, (row,), 1, None, "one image", None)
    told = card(Given("student.safetensors", 1.0, 1000, "tiny", won, which, {"trials": 1}))
    assert f"mIoU **20.00 %** {images}." in told
    assert told.count("chose the hyperparameters") == 1
    assert chosen_on in told
