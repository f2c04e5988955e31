"""Evidence that needs no training: what files say of themselves, and traces of editing."""
