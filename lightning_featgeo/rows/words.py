"""Why rows are believed to be their samples', and to have their labels: what a run says of it."""

from lightning_featgeo.rows.origin import BY_MEMORY

IN_ORDER = "taken in order (not verified: what enters the network is no copy of the batch)"
BETWEEN = "taken in order (not verified: the batch entered, and nothing shows what became of it between two modules)"
KNOWN = f"known by {BY_MEMORY}"
UNSEEN = (
    "taken in order (not verified: no way is seen from what entered the network to these rows, as where torch.compile "
    "is in use, or features are stored or detached)"
)
OTHER_PART = "the loss scores {part} of the batch{other}: it holds the labels"
MAPPED = "the loss scores other numbers than the batch's labels, always the same one for each: those are the labels"
PENDING = (
    "the loss scores other numbers than the batch's labels: too few batches have shown which one for each, or these may"
    " be such numbers already. Labels are left out; a function says what they are: labels=lambda batch: batch[1] - 1"
)
OTHERS_SCORED = (
    "the loss scores the labels of the batch before, and what entered the network is no copy of this batch: rows have "
    "the classes that the loss scores"
)
MOVED = (
    "in training, these rows were in another order than the batch's labels (sorted or shuffled), which can't be "
    "followed here: none has a label. Return the features in the batch's order from the step, and name them with "
    "features="
)


def is_known(how: str) -> bool:
    """Whether rows are known to be their samples'; before a batch nothing is said against it."""
    return not how or how.startswith("known")
