"""``asyncdiff panel``: one prompt at several γ."""
