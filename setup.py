"""Build script: pyproject.toml says the rest; here, that the folder kernels is installed as updp_rt.kernels."""

from setuptools import find_packages, setup

kernels = ["updp_rt.kernels", *(f"updp_rt.kernels.{name}" for name in find_packages("kernels"))]
setup(packages=[*find_packages(include=["updp_rt*"]), *kernels], package_dir={"updp_rt.kernels": "kernels"})
