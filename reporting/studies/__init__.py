"""Sections of the report that single studies need; each module that defines `section` is one."""
