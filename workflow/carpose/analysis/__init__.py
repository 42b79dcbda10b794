"""Causes of lost score; receptive fields of networks."""
