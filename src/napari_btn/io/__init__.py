"""Read and write files: images, labels, regions, tables and bundles."""
