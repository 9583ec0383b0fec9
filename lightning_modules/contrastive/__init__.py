"""Contrastive training of the embedded vision tower."""
