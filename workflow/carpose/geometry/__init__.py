"""Camera mapping and constants, rotations, the ground plane, and meshes of cars."""
