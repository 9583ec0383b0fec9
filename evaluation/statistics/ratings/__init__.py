"""Ratings by people and judges: agreement, clustered errors, prediction-powered inference."""
