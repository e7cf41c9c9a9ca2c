"""``asyncdiff bench``: what both asynchronies cost."""
