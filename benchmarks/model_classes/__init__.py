"""Equality of ready-made classes and architectures with references and exports, measured."""
