"""Distillation of the embedded vision tower into a small ViT of the class that LLaVA uses."""
