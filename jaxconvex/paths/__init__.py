"""Shortest paths in graphs of nearest neighbours, from many points at once.

graph -> search -> tie_rule -> walk        one search, one rule for equally short paths, one walk along the paths
      -> layout, order                     what is laid out, and in which order it is searched
      -> counts, chains                    counts of any pairs; graphs of very long paths, on the host
"""
