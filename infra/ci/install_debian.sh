#!/usr/bin/env bash
# Install the Debian packages that the tests need and that are missing: Chromium, Node.js, PostgreSQL with PostGIS,
# Prometheus with promtool.
# Run as root on Debian 12 or newer; does nothing where all is there.
set -euo pipefail

packages=()
command -v chromium >/dev/null || packages+=(chromium)
command -v make >/dev/null || packages+=(make)
command -v git >/dev/null || packages+=(git)
command -v npm >/dev/null || packages+=(nodejs npm)
command -v promtool >/dev/null || packages+=(prometheus)
# The server's programs lie outside PATH; only they are needed, no running service.
{ command -v initdb || compgen -G '/usr/lib/postgresql/*/bin/initdb'; } >/dev/null || packages+=(postgresql)
# The extension that pgstac stands on; Debian names the package by the server's version.
compgen -G '/usr/share/postgresql/*/extension/postgis.control' >/dev/null || packages+=(postgresql-15-postgis-3)

if [ ${#packages[@]} -eq 0 ]; then
  echo "All Debian packages are there."
  exit 0
fi
if [ "$(id -u)" -ne 0 ]; then
  echo "Missing: ${packages[*]}. Run this script as root, or install them yourself." >&2
  exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update --quiet=2
apt-get install --yes --quiet=2 --no-install-recommends "${packages[@]}"
