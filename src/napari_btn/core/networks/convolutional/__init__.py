"""U-Nets, plain stacks of convolutions, and autoencoders: layers in order, with or without pooling."""
