"""Translation of samples: engines, prompts, segments, quality checks, translation memory."""
