"""``asyncdiff train``, ``search`` and ``evaluate``."""
