# SPDX-License-Identifier: GPL-2.0-or-later
# Sourced by the tools: stage lines with the time since the first one, and errors in three parts.

stage_start=$(date +%s)

stage() {
    printf '[%4d s] %s\n' "$(($(date +%s) - stage_start))" "$*"
}

# fail FACT EVIDENCE REMEDY
fail() {
    printf 'error: %s\n  because: %s\n  to mend it: %s\n' "$1" "$2" "$3" >&2
    exit 3
}
