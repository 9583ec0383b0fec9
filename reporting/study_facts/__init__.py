"""Facts of a study for readers of its report: configuration, amounts, tables for papers."""
