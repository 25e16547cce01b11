"""Verbs that make data: each reads files and writes files."""
