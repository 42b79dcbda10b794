"""Camera, rotation, ground plane, meshes and the data set's camera constants."""
