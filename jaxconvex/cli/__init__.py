"""The command line.

main -> commands, study -> scoring -> writing        commands declare, scoring works, writing fills the output folder
files -> labels, features, sources                   what a user's files hold
"""
