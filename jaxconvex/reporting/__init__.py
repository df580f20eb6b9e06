"""Figures and pages of reports: `figures` has what all share, `plots` draws reports, `page` writes them as HTML."""
