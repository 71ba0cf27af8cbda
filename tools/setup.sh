#!/bin/sh
# Sets up .venv with everything that `make demo` and `make test` need. Safe to run again.
set -eu
cd "$(dirname "$0")/.."

LIBRARIES="xvfb libxcb-icccm4 libxcb-keysyms1 libegl1 libgl1 libxkbcommon-x11-0 libxcb-cursor0
libxcb-image0 libxcb-render-util0 libxcb-shape0 libxcb-xinerama0 libdbus-1-3 libfontconfig1"

say() { printf 'setup: %s\n' "$*" >&2; }

find_python() {
    for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    say "Python 3.11 or newer is needed and was not found; install it, or name it: make PYTHON=/path/to/python3 test"
    return 1
}

install_libraries() {
    command -v dpkg-query >/dev/null && command -v apt-get >/dev/null || return 0
    # shellcheck disable=SC2086  # a list of words
    present=$(dpkg-query -W -f='${Package} ${db:Status-Status}\n' $LIBRARIES 2>/dev/null || true)
    missing=""
    for library in $LIBRARIES; do
        printf '%s\n' "$present" | grep -qx "$library installed" || missing="$missing $library"
    done
    # Debian splits ensurepip from Python; without it a virtual environment has no pip.
    if [ ! -x .venv/bin/python ] && ! "$1" -c 'import ensurepip, venv' 2>/dev/null; then
        missing="$missing python3-venv"
    fi
    [ -n "$missing" ] || return 0
    root=""
    if [ "$(id -u)" -ne 0 ]; then
        if ! sudo -n true 2>/dev/null && ! { [ -t 0 ] && command -v sudo >/dev/null; }; then
            say "these system libraries are missing, and only root may install them; napari may not start:"
            say "    apt-get install --no-install-recommends$missing"
            return 0
        fi
        root="sudo"
    fi
    say "installing$missing"
    # shellcheck disable=SC2086
    $root env DEBIAN_FRONTEND=noninteractive apt-get update -q >&2
    # shellcheck disable=SC2086
    $root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $missing >&2
}

STAMP=.venv/.napari-btn-stamp
up_to_date() {
    [ -f "$STAMP" ] && [ -x .venv/bin/python ] || return 1
    [ -z "$(find pyproject.toml tools/locked.txt tools/locked-cuda.txt tools/setup.sh -newer "$STAMP")" ]
}

python=$(find_python)
# Looked at every time: a kept .venv may come to a machine without them.
install_libraries "$python"
up_to_date && exit 0
if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    say "making .venv with $python"
    "$python" -m venv .venv
fi
say "installing napari-btn and what it needs into .venv; the first time takes minutes"
# Wheels whose hashes are known, and no others; no file of theirs runs while they are installed.
pip() { .venv/bin/python -m pip --disable-pip-version-check "$@"; }
install() { pip install --quiet --no-deps "$@"; }
# pip prefers a file whose hash the index states to one in a folder (find-links), so torch is looked for there
# first: a machine without a card may offer its CPU build, and saves gigabytes.
sed -n '/^torch==/,/[0-9a-f]$/p' tools/locked.txt >.venv/torch.txt
install --no-index --require-hashes -r .venv/torch.txt >/dev/null 2>&1 || true
install --require-hashes --only-binary :all: -r tools/locked.txt
torch=$(pip show torch | sed -n 's/^Version: //p')
case "$(uname) $torch" in
    *+cpu) ;;
    Linux*) install --require-hashes --only-binary :all: -r tools/locked-cuda.txt ;;
esac
install --no-build-isolation -e .
if ! pip check >&2; then
    say "the packages in .venv don't fit together; remove .venv and try again"
    exit 1
fi
touch "$STAMP"
