"""Benchmark of photographs with human texts in many languages, built from Debian packages."""
