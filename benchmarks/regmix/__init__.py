"""Prediction of RegMix's published runs from 16 of them."""
