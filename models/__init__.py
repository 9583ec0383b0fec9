"""PyTorch modules and their configurations, independent of Lightning and of the data pipeline."""
