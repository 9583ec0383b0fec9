"""Power of the registered claims before training, and the assumptions it rests on."""
