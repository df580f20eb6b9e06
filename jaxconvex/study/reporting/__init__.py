"""Figures and pages of studies: of one domain, and of several together."""
