"""The fast search for shortest paths on concrete arrays: planned in `blocks`, chosen in `engines`, for `packed_scores`."""
