"""Build, save and load networks; choose the device; CUDA graphs; download pretrained weights."""
