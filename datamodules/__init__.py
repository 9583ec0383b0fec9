"""The online data path: shards -> Sample -> EncodedSample -> packed micro-batches of one step."""
