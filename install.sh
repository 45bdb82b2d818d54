#!/bin/sh
# Installs headrace for the user who runs it: says what it will do, then does it. Never asks for root, never edits a
# shell's files. `sh install.sh --dry-run` only says it; `sh install.sh --help` has the options.
set -eu

usage() {
    cat <<'TEXT'
usage: sh install.sh [--dry-run] [--from WHAT] [--with uv|pip] [--torch BACKEND] [--prefix DIR]

  --dry-run        Say what would be done, and do nothing.
  --from WHAT      What to install: a wheel, a folder with the sources, or a requirement such as headrace==1.0.
                   Default: the folder of this script, if it has the sources, else headrace from the package index.
  --with uv|pip    What installs. Default: uv if it is there, else pip.
  --torch BACKEND  Build of torch, where uv installs: auto (by the GPU that there is; the default), cpu, cu130, ...,
                   or index for what the package index has. pip always takes what the package index has.
  --prefix DIR     With pip: where the virtual environment goes. Default: ~/.local/share/headrace.
  PYTHON           Variable: the Python to use, 3.11 or newer. Default: the newest on the path; uv may fetch one.

With uv it is `uv tool install`; with pip, a virtual environment, and a link in ~/.local/bin.
TEXT
}

say() { printf '%s\n' "$*"; }
fail() {
    printf 'install.sh: %s\n' "$*" >&2
    exit 1
}
run() {
    say "  $*"
    if [ "$dry_run" = no ]; then "$@"; fi
}
has() { command -v "$1" >/dev/null 2>&1; }

dry_run=no
from=
tool=
torch=auto
prefix=
while [ $# -gt 0 ]; do
    case $1 in
        --dry-run) dry_run=yes ;;
        --from | --with | --torch | --prefix)
            [ $# -ge 2 ] || fail "$1 needs a value; --help says which"
            case $1 in
                --from) from=$2 ;;
                --with) tool=$2 ;;
                --torch) torch=$2 ;;
                --prefix) prefix=$2 ;;
            esac
            shift
            ;;
        -h | --help)
            usage
            exit 0
            ;;
        *) fail "unknown option $1; --help has those that there are" ;;
    esac
    shift
done
[ -n "${HOME:-}" ] || fail "HOME is not set; set it to the folder under which headrace may be installed"
bin=$HOME/.local/bin
prefix=${prefix:-$HOME/.local/share/headrace}

# ---- what this machine has

[ "$(uname -s)" = Linux ] || fail "headrace runs on Linux; this is $(uname -s)"
machine=$(uname -m)
case $machine in
    x86_64 | aarch64) ;;
    *) fail "there are kernels for x86_64 and aarch64; this machine is $machine" ;;
esac

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        has "$PYTHON" || fail "PYTHON is $PYTHON, which cannot be run"
        is_new_enough "$PYTHON" || fail "PYTHON is $PYTHON, which is older than 3.11; name another"
        command -v "$PYTHON"
        return
    fi
    for name in python3.14 python3.13 python3.12 python3.11 python3; do
        if has "$name" && is_new_enough "$name"; then
            command -v "$name"
            return
        fi
    done
}

cpu_level() {
    if [ "$machine" != x86_64 ]; then
        features=" $(sed -n 's/^Features[^:]*: //p' /proc/cpuinfo | head -n 1) "
        case $features in
            *" i8mm "*" bf16 "* | *" i8mm bf16 "*) say "NEON with I8MM and BF16" ;;
            *" asimddp "*) say "NEON with dot products" ;;
            *) say "NEON without dot products: it will work, but more slowly" ;;
        esac
        return
    fi
    flags=" $(sed -n 's/^flags[^:]*: //p' /proc/cpuinfo | head -n 1) "
    case $flags in
        *" amx_tile "*) say "AMX" ;;
        *" avx512_bf16 "*) say "AVX-512 with BF16" ;;
        *" avx512_vnni "*) say "AVX-512 with VNNI" ;;
        *" avx512bw "*) say "AVX-512" ;;
        *" avx2 "*) say "AVX2" ;;
        *) say "neither AVX2 nor AVX-512: it will work, several times as slowly" ;;
    esac
}

python=$(find_python)
if [ -z "$tool" ]; then
    if has uv; then tool=uv; else tool=pip; fi
fi
case $tool in
    uv) has uv || fail "there is no uv on the path; install it, or leave out --with uv" ;;
    pip) ;;
    *) fail "--with is $tool; it must be uv or pip" ;;
esac
if [ "$tool" = pip ]; then
    [ -n "$python" ] || fail "there is no Python 3.11 or newer on the path; install one, set PYTHON, or install uv, which fetches one"
    "$python" -c 'import venv, ensurepip' 2>/dev/null ||
        fail "$python has no venv module; install it (Debian, Ubuntu: apt-get install python3-venv) or install uv"
    if [ -e "$prefix" ] && [ ! -e "$prefix/pyvenv.cfg" ]; then
        fail "$prefix exists and is no virtual environment; move it, or name another folder with --prefix"
    fi
    if [ -e "$bin/headrace" ] && [ "$(readlink "$bin/headrace")" != "$prefix/bin/headrace" ]; then
        fail "$bin/headrace exists and is not of this installation; move it away"
    fi
fi

# Piped into a shell the script is in no folder, and $0 is the shell.
if [ -z "$from" ]; then
    from=headrace
    if [ -f "$0" ]; then
        folder=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
        if grep -q '^name = "headrace"' "$folder/pyproject.toml" 2>/dev/null; then from=$folder; fi
    fi
fi

# ---- what will be done

say "headrace is installed for $(id -un), from $from."
say "  processor   $machine, $(cpu_level)"
if [ "$tool" = uv ]; then
    say "  with        $(uv --version | cut -d ' ' -f 1,2), Python ${python:-of its own}, torch: $torch"
    say "  into        $(uv tool dir), the command headrace into $(uv tool dir --bin)"
else
    say "  with        pip of $python; torch is what the package index has, on Linux with CUDA: several gigabytes"
    say "  into        $prefix, the command headrace into $bin"
fi
if [ -d "$from" ] && ! has "${CXX:-g++}" && ! has c++ && ! has clang++; then
    say "  compiler    none: sources are installed, so there would be no kernels, and steps take several times as long;"
    say "              install g++ first, or install a wheel"
fi
if [ "$dry_run" = yes ]; then say "These commands would be run:"; else say "These commands are run:"; fi

# ---- doing it

if [ "$tool" = uv ]; then
    set -- uv tool install --upgrade --reinstall-package headrace --compile-bytecode
    if [ -n "$python" ]; then set -- "$@" --python "$python"; fi
    if [ "$torch" != index ]; then set -- "$@" --torch-backend "$torch"; fi
    run "$@" "$from"
    bin=$(uv tool dir --bin)
else
    run "$python" -m venv "$prefix"
    run "$prefix/bin/python" -m pip install --disable-pip-version-check --upgrade "$from"
    run mkdir -p "$bin"
    run ln -sf "$prefix/bin/headrace" "$bin/headrace"
fi
run "$bin/headrace" --version

[ "$dry_run" = no ] || exit 0
say "headrace is installed."
case ":$PATH:" in
    *":$bin:"*) command=headrace ;;
    *)
        command=$bin/headrace
        say "$bin is not on your PATH; add it in your shell's settings, or write the path as below."
        ;;
esac
say "  $command serve           serve the demo model (98 MB), with a page to chat at http://127.0.0.1:8000"
say "  $command serve --help    options"
say "  $command doctor          whether this machine will do"
if [ "$tool" = uv ]; then say "To remove it: uv tool uninstall headrace"; else say "To remove it: rm -r $prefix $bin/headrace"; fi
say "Models and compiled kernels are in ${HEADRACE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/headrace}."
