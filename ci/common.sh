# Functions for the scripts of this folder. A script sets ROOT to the project's folder, sources
# this file, and calls:
#
#   find_python                    sets PYTHON
#   supported                      says which Pythons fastworker supports, one version a line
#   interpreter VERSION            says where that Python is; nothing if it is not here
#   check_compiler                 that fastworker can be built at all
#   make_venv VENV                 makes VENV, or keeps it if it fits PYTHON
#   install_project VENV EXTRA [PIP ARGUMENT ...]
#                                  builds a wheel and installs it with "[EXTRA]" ("" for none)
#   no_compiler VENV COMMAND ...   runs it with the commands of VENV alone on PATH
#   check_committed                that what git has is what lies here
#
# The wheel is built from a copy of the sources, so that nothing is left in them and nothing that
# lies about in them (an older build) gets into it. It is kept in .venv-wheels and used again for
# the same sources and interpreter. Environment: PYTHON, what setup.py reads, and SDIST, an sdist of
# these very sources to build from instead.

die() {
    echo "$(basename "$0"): $*" >&2
    exit 1
}

say() {
    echo "==> $*"
}

# is_python COMMAND: does it run, and is it one that fastworker supports?
is_python() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1
}

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        is_python "$PYTHON" || die "PYTHON=$PYTHON is not a Python 3.10 or newer"
        return
    fi
    for PYTHON in python3 python3.13 python3.12 python3.11 python3.10 python; do
        ! is_python "$PYTHON" || return 0
    done
    die "no Python 3.10 or newer found; set PYTHON to the path of one"
}

version_of() {
    "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null
}

supported() {
    sed -n 's/.*"Programming Language :: Python :: \(3\.[0-9]*\)".*/\1/p' "$ROOT/pyproject.toml"
}

# interpreter VERSION: PYTHON if that is it, or one on PATH or in ~/.pyenv
interpreter() {
    for candidate in "$PYTHON" "python$1" "$HOME/.pyenv/versions/$1".*/bin/python; do
        if [ "$(version_of "$candidate")" = "$1" ]; then
            "$candidate" -c 'import sys; print(sys.executable)'
            break
        fi
    done
}

check_compiler() {
    cc=$("$PYTHON" -c 'if True:
        import os, sysconfig
        print((os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0])')
    command -v "$cc" >/dev/null 2>&1 ||
        die "no C compiler: '$cc' is not there (on Debian or Ubuntu: apt install gcc)"
    header=$("$PYTHON" -c 'if True:
        import sysconfig
        print(sysconfig.get_path("include") + "/Python.h")')
    [ -f "$header" ] ||
        die "Python's C headers are missing: no $header (on Debian or Ubuntu: apt install python3-dev)"
}

check_committed() {
    changed=$(git -C "$ROOT" status --porcelain) || die "$ROOT is no checkout of git"
    [ -z "$changed" ] || die "there are changes that are not committed:
$changed"
}

no_compiler() (
    CC=/bin/false
    PATH=$1/bin
    export CC PATH
    shift
    "$@"
)

make_venv() {
    want=$("$PYTHON" -c 'import sys; print(sys.version)')
    have=$("$1/bin/python" -c 'import sys; print(sys.version)' 2>/dev/null) || have=
    [ "$want" != "$have" ] || return 0
    say "making $1 with $("$PYTHON" --version)"
    "$PYTHON" -m venv --clear "$1" ||
        die "cannot make a virtual environment (on Debian or Ubuntu: apt install python3-venv)"
}

pip_install() {
    venv=$1
    shift
    "$venv/bin/python" -m pip install -qq --disable-pip-version-check "$@"
}

# sources_sum: a number that changes with the sources and with how they are compiled
sources_sum() {
    (
        cd "$ROOT"
        find fastworker setup.py pyproject.toml README.md LICENSE MANIFEST.in -type f \
            ! -name '*.c' ! -name '*.so' ! -name '*.pyc' | LC_ALL=C sort | tr '\n' '\0' |
            xargs -0 cksum
        env | grep -E '^(FASTWORKER_|CFLAGS=|CC=)' | LC_ALL=C sort
    ) | cksum | tr -d ' '
}

# copy_sources FOLDER: what a wheel is made of, without what a build has left there
copy_sources() {
    mkdir -p "$1"
    if [ -n "${SDIST:-}" ]; then
        tar -xzf "$SDIST" --strip-components 1 -C "$1"
        return
    fi
    for item in fastworker setup.py pyproject.toml README.md LICENSE MANIFEST.in; do
        cp -R "$ROOT/$item" "$1/"
    done
    find "$1" -name '*.so' -exec rm -f {} +
    find "$1" -name '*.pyx' | while read -r source; do
        rm -f "${source%.pyx}.c"
    done
}

# build_wheel VENV: sets WHEEL, a wheel for the interpreter of VENV
build_wheel() {
    tag=$("$1/bin/python" -c 'if True:
        import sys, sysconfig
        print(sys.implementation.cache_tag, sysconfig.get_platform(), sep="-")')
    wheels=$ROOT/.venv-wheels/$tag-$(sources_sum)
    for WHEEL in "$wheels"/*.whl; do
        [ ! -f "$WHEEL" ] || return 0
    done
    say "building fastworker for $tag"
    rm -rf "$ROOT/.venv-wheels/$tag-"*
    copy_sources "$wheels.sources"
    "$1/bin/python" -m pip wheel -qq --disable-pip-version-check --no-deps \
        --wheel-dir "$wheels.new" "$wheels.sources"
    rm -rf "$wheels.sources"
    mv "$wheels.new" "$wheels"
    for WHEEL in "$wheels"/*.whl; do
        [ ! -f "$WHEEL" ] || return 0
    done
    die "pip made no wheel in $wheels"
}

install_project() {
    venv=$1
    extra=$2
    shift 2
    stamp="$(sources_sum) [$extra] $*"
    if [ "$(cat "$venv/fastworker-stamp" 2>/dev/null)" != "$stamp" ]; then
        build_wheel "$venv"
        say "installing fastworker${extra:+[$extra]}${*:+ with $*} into $venv"
        rm -f "$venv/fastworker-stamp"
        # The same version with other contents is news to pip only if told so.
        pip_install "$venv" --force-reinstall --no-deps "$WHEEL"
        pip_install "$venv" "$WHEEL${extra:+[$extra]}" "$@"
        echo "$stamp" >"$venv/fastworker-stamp"
    fi
}
