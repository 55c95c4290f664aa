#!/usr/bin/env bash
# Install the Debian packages that the tests need and that are missing: Chromium, Git, Node.js, PostgreSQL with PostGIS,
# Prometheus with promtool. `make test` calls this.
#
# Installs as root, or through sudo where that asks for no password; does nothing where all is there. Elsewhere it says
# what is missing and succeeds, because tests that need a missing package are skipped; with CI=true it fails.
set -euo pipefail

packages=()
command -v chromium >/dev/null || packages+=(chromium)
command -v make >/dev/null || packages+=(make)
command -v git >/dev/null || packages+=(git)
{ command -v node && command -v npm; } >/dev/null || packages+=(nodejs npm)
{ command -v promtool && command -v prometheus; } >/dev/null || packages+=(prometheus)
# The server's programs lie outside PATH; only they are needed, no running service.
{ command -v initdb || compgen -G '/usr/lib/postgresql/*/bin/initdb'; } >/dev/null || packages+=(postgresql)
# The extension that pgstac stands on.
compgen -G '/usr/share/postgresql/*/extension/postgis.control' >/dev/null || packages+=(postgresql-postgis)
[ ${#packages[@]} -eq 0 ] && exit 0

give_up() {
  echo "Debian packages are missing ($1); tests that need them are skipped. To have them:" >&2
  echo "  sudo apt-get install --no-install-recommends ${packages[*]}" >&2
  [ "${CI:-}" != true ]
  exit
}

command -v apt-get >/dev/null || give_up "apt-get was not found"
as_root=()
if [ "$(id -u)" -ne 0 ]; then
  sudo -n true 2>/dev/null || give_up "neither root nor sudo without a password"
  as_root=(sudo -n)
fi
echo "Installing Debian packages for the tests: ${packages[*]}"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
apt() { "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get --quiet=2 "$@" >>"$log" 2>&1; }
if ! { apt update && apt install --yes --no-install-recommends "${packages[@]}"; }; then
  tail -n 20 "$log" >&2
  give_up "apt-get failed"
fi
