# Sourced by stages that need a fresh Debian: fresh_debian FOLDER, and what stage.sh has.
source "$(dirname "${BASH_SOURCE[0]}")/stage.sh"

# A Debian with Python 3.13 in FOLDER, made once for all stages. DEBIAN_SUITE may name another
# release, and DEBIAN_MIRROR a mirror.
fresh_debian() {
  local made=$CI_WORK/debian
  [ "$(id -u)" = 0 ] || cannot "debootstrap and chroot need root"
  command -v debootstrap >/dev/null || cannot "debootstrap is not installed"
  unshare --mount --pid --fork true 2>/dev/null || cannot "namespaces cannot be made here"
  if [ ! -d "$made" ]; then
    if ! debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates \
      "${DEBIAN_SUITE:-trixie}" "$made.part" ${DEBIAN_MIRROR:+"$DEBIAN_MIRROR"} >"$made.log" 2>&1; then
      tail -n 20 "$made.log" "$made.part/debootstrap/debootstrap.log" >&2 || true
      rm -rf --one-file-system "$made.part"
      cannot "debootstrap failed"
    fi
    reach_pip_index "$made.part"
    # as in Debian's own images: what is installed there need not survive a power cut
    echo force-unsafe-io >"$made.part/etc/dpkg/dpkg.cfg.d/unsafe-io"
    mv "$made.part" "$made"
  fi
  cp -a "$made" "$1"
}

# What this machine's pip needs to reach its package index: names, certificates, settings.
reach_pip_index() {
  local root=$1 file folder
  cp /etc/hosts /etc/resolv.conf "$root/etc/"
  cp -rL /etc/ssl/certs/. "$root/etc/ssl/certs/" 2>/dev/null || true
  for file in /etc/pip.conf /etc/xdg/pip "${PIP_CERT:-}" "${PIP_CONFIG_FILE:-}" "${SSL_CERT_FILE:-}" \
    "${REQUESTS_CA_BUNDLE:-}"; do
    [ -z "$file" ] || [ ! -e "$file" ] || cp -rL --parents "$file" "$root/"
  done
  for folder in "${XDG_CONFIG_HOME:-$HOME/.config}/pip" "$HOME/.pip"; do
    [ ! -d "$folder" ] || { mkdir -p "$root/root/.config" && cp -rL "$folder" "$root/root/.config/pip"; }
  done
}
