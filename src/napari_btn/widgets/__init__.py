"""The only room with Qt and napari: one dock per file, and what they share."""
