"""Estimates of cost, memory and time, made before anything runs."""
