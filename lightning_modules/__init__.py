"""Lightning modules, optimizers and strategies of the training stages."""
