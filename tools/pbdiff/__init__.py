"""Parts of tools/pb-diff.py."""
