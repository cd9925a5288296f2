"""What is said of a meter that is gone."""

from ray.exceptions import ActorDiedError, OutOfMemoryError

from kdtune.cluster.meters import why_ended


def test_the_end_of_a_meter_is_told_in_plain_words() -> None:
    """Ray's own text of it ends with a link."""
    text = "Task was killed due to the node running low on memory.\nRefer to: https://docs.ray.io/oom.html"
    told = why_ended(OutOfMemoryError(text))
    assert told.startswith("Ray ended its meter, since the node's memory was nearly full; run fewer trials at once (")
    assert "http" not in told
    assert why_ended(ActorDiedError()).startswith("its meter has ended: ")
