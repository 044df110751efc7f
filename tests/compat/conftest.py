"""Nothing here is collected: ``make compat`` runs it, in an environment of its own."""

collect_ignore_glob = ["*"]
