"""Measurements: not tests. Results are kept in ``results/<device>/``.

updp_rt is imported first: it makes torchvision, which timm imports, importable beside any torch build.
"""

import updp_rt as updp_rt
