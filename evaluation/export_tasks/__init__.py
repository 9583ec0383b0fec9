"""Task packs: our benchmarks and texts as tasks of lmms-eval and lm-evaluation-harness."""
