#!/usr/bin/env bash
# Rehearse the two commands of the README on a bare Debian 12: as an ordinary user, then as root.
#
#     bash infra/ci/rehearse.sh FOLDER [PYTEST_ARGUMENT...]     # e.g. /tmp/bare tests/unit -m "not slow"
#
# As root, with debootstrap; needs 6 GB in FOLDER, which is removed at the end. How this machine's pip finds its packages
# (pip.conf, PIP_* variables, folders in PIP_FIND_LINKS) is lent to the bare one. Without arguments for pytest the whole
# of `make test` runs as root; with them, lint and these tests do, both as the user and as root.
set -euo pipefail
root=$(mkdir -p "$1" && cd "$1" && pwd)
shift
source=$(cd "$(dirname "$0")/../.." && pwd)

leave() {
  for place in "$root"/{proc,dev}; do
    ! mountpoint --quiet "$place" || umount --lazy "$place"
  done
  [ -n "${KEEP:-}" ] || rm -rf --one-file-system "$root"
}
trap leave EXIT

[ -e "$root/usr/bin/make" ] || debootstrap --variant=minbase \
  --include=ca-certificates,python3,python3-venv,python3-pip,make bookworm "$root" "${MIRROR:-}"
mount -t proc proc "$root/proc"
mount --rbind --make-rslave /dev "$root/dev"
cp -L /etc/resolv.conf "$root/etc/"
[ ! -e /etc/pip.conf ] || cp -L /etc/pip.conf "$root/etc/"
[ ! -e /etc/ssl/certs/ca-certificates.crt ] || cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
for folder in ${PIP_FIND_LINKS:-}; do
  [ -d "$folder" ] || continue
  mkdir -p "$root$folder" && cp "$folder"/*.whl "$root$folder/"
done
chroot "$root" id tester >/dev/null 2>&1 || chroot "$root" useradd --create-home tester
mkdir -p "$root/home/tester/unveil"
git -C "$source" archive HEAD | tar -x -C "$root/home/tester/unveil"

inside() {  # USER COMMAND: in the repository, with little but pip's variables
  local pip=()
  mapfile -t pip < <(env | grep '^PIP_' || true)
  chroot "$root" su "$1" --shell /bin/bash --command \
    "cd /home/tester/unveil && env ${pip[*]@Q} PATH=/usr/sbin:/usr/bin:/sbin:/bin $2"
}

chroot "$root" chown -R tester: /home/tester/unveil
echo "== an ordinary user"
inside tester "make demo"
if [ $# -gt 0 ]; then
  inside tester "make packages lint"
  inside tester ".venv/bin/pytest -rs ${*@Q}"
fi
echo "== root"
chroot "$root" chown -R root: /home/tester/unveil
if [ $# -gt 0 ]; then
  inside root "make packages lint"
  inside root ".venv/bin/pytest -rs ${*@Q}"
else
  inside root "make test"
fi
