"""The claims that a study tests, each a function: (studies, "all" or a domain's name) -> its statements."""
