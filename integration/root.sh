# Sourced by the scripts that need root.

# as_root COMMAND...: runs it as root, with this PATH: sudo's own would hide cargo and target/tools.
as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo env PATH="$PATH" "$@"
  else
    echo "$(basename "$0"): root is needed for: $*: run this as root, or install sudo" >&2
    return 1
  fi
}

# install PACKAGE...: of the distribution (Debian, Ubuntu).
install() {
  echo "installing $*"
  as_root apt-get update -q &&
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@"
}
