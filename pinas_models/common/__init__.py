"""What the commands of the project share: command line, progress, text, files, configurations, the Hub's errors."""
