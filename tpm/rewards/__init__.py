"""Judging images: one file per metric family, and what combines them. `catalogue` says what there is."""
