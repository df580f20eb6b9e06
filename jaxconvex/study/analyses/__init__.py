"""Graph convexity measured in other ways, and beside simpler measures of the same layers."""
