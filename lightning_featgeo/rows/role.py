"""What a watched layer is in its model, as far as it decides how rows are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lightning_featgeo.types import Tensor


@dataclass(frozen=True)
class Role:
    """What a watched layer is in its model.

    Attributes:
        trains: its batches are trained on.
        stage: of its batches: "train", "val" or "test".
        is_classifier: it feeds a classifier: a second call in a batch is no second view.
        predicts_tokens: its classes are a vocabulary that the model reads, too (a language model).
        scores_groups: the loss scores whole numbers (b, g) of the batch as classes. None: no loss has told.
        has_views: signals of views were asked for: the same input twice is two views.
        decodes: it belongs to the decoder of an encoder-decoder: the encoder's mask is not its own. None: unknown.
        time_first: it puts out (tokens, batch, dimensions).
        may_be_time_first: a part of the model does.
        reads_last: its head classifies a sequence by the last token.
        chooses: signals of codes were asked for, and no others: each place chooses one of its entries.
        several_loaders: the batch's outermost parts are batches of different loaders.
    """

    trains: bool = False
    stage: str = ""
    is_classifier: bool = False
    predicts_tokens: bool = False
    scores_groups: bool | None = None
    has_views: bool = False
    decodes: bool | None = None
    time_first: bool = False
    may_be_time_first: bool = False
    reads_last: bool = False
    chooses: bool | None = False  # None: with other signals
    several_loaders: bool = False


USUAL_ROLE = Role()
ATTRIBUTE = (
    "the head predicts a token at every place, and the batch has one label a sequence, which it can't be scored "
    "against: it is not used. If you want the classes of sequences, name it with labels= and say pool='mean' or "
    "pool='last'"
)


def is_attribute(role: Role, labels: Tensor, features: Sequence[Tensor]) -> bool:
    """Whether labels of sequences are none of the head's, as a language model scores every token with the next one.

    Args:
        role: of the watched layer.
        labels: that were found without being named.
        features: of each call; (b, t, d) where the head reads every token.
    """
    each_token = bool(features) and all(one.ndim == 3 and len(one) == len(labels) for one in features)
    return role.predicts_tokens and labels.ndim == 1 and each_token and not role.reads_last
