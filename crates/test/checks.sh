# shellcheck shell=bash
# Checks one after the other, and their sum, for scripts that source this. $scratch is a directory of theirs while they run.

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
passed=0
failed=0

# check NAME COMMAND...: the command's output is shown only if it fails.
check() {
    local name=$1
    shift
    if "$@" >"$scratch/output" 2>&1; then
        echo "ok    $name"
        passed=$((passed + 1))
    else
        echo "FAIL  $name"
        sed 's/^/      /' "$scratch/output"
        failed=$((failed + 1))
    fi
}

# The closing line, and whether all held.
held() {
    echo "$passed passed, $failed failed"
    [ "$failed" -eq 0 ]
}
