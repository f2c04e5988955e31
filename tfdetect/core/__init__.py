"""What every other room builds on: documents, runs, errors, files, the command-line base."""
