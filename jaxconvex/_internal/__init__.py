"""What all folders share: checks, messages, devices, loops that vary, texts of numbers, files that survive a stop."""
