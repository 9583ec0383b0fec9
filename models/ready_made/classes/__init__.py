"""Classes of ready-made models: one module per family of classes, found by its model types."""
