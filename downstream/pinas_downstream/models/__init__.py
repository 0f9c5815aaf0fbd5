"""What a config can name: the backbone, the authors' heads, and their evaluation as models of mmseg."""
