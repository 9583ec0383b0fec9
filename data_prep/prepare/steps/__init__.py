"""Steps of a preparation, in order: collect, produce, settle, finish."""
