"""Kernel bodies, one folder a language; installed as ``updp_rt.kernels``."""
