"""``asyncdiff inspect``: what is in a policy file."""
