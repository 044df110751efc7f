"""Why rows are believed to be their samples': what a run says of it."""

from lightning_featgeo.rows.origin import BY_MEMORY

IN_ORDER = "taken in order (not verified: what enters the network is no copy of the batch)"
BETWEEN = "taken in order (not verified: the batch entered, and nothing shows what became of it between two modules)"
KNOWN = f"known by {BY_MEMORY}"
UNSEEN = (
    "taken in order (not verified: no way is seen from what entered the network to these rows, as where torch.compile "
    "is in use, or features are stored or detached)"
)
