"""The docks: the only package with Qt and napari."""
