#!/usr/bin/env bash
# Runs the tests; called by the Makefile. The last line of test, check and race is the count.
set -euo pipefail
cd "$(dirname "$0")/.."

GO=${GO:-go}
export PATH="$PATH:/usr/local/go/bin:/usr/sbin:/sbin"
export GOFLAGS="${GOFLAGS:--buildvcs=false}"

formatted_and_vetted() {
  local files
  files=$(gofmt -l cmd devices journal nbd striping tests $(ls -d fusefs 2>/dev/null))
  if [ -n "$files" ]; then
    printf 'not formatted by gofmt:\n%s\n' "$files" >&2
    return 1
  fi
  CGO_ENABLED=0 $GO vet ./...
}

# What takes longest comes first in both, so that no processor is idle at the end.
longest='^ballast/(striping|journal|tests/(torture|process))$'
libraries() { listed | grep -v '^ballast/tests'; }
processes() { listed | grep '^ballast/tests'; }
listed() {
  $GO list ./... | grep -E "$longest" | sort -r
  $GO list ./... | grep -vE "$longest"
}

# count runs its arguments, each a command line, one after the other and counts what all of them
# report. A command that ends badly without reporting a failed test is still a failure.
count() {
  local tally status=0
  tally=$(mktemp -d)
  trap "rm -rf '$tally'" EXIT
  CGO_ENABLED=0 $GO build -o "$tally/tally" ./tests/tally
  {
    local line bad=0
    for line in "$@"; do
      eval "$line" || bad=1
    done
    exit $bad
  } 2>&1 | "$tally/tally" || status=1
  return $status
}

# everything runs all tests. Whole processes come last and alone: they measure throughput, and their client
# side gains nothing from the race detector (a daemon built with it is one of the tests). Without it all is
# built without C, as the daemon that they start and what vet looks at, so that it is built once.
everything() {
  count '$GO test -json -race -timeout 25m -p 2 $(libraries)' \
        'CGO_ENABLED=0 $GO test -json -timeout 5m -run Allocate ./nbd' \
        'CGO_ENABLED=0 $GO test -json -timeout 25m -p 1 $(processes)'
}

case "${1:-}" in
test)
  tests/install-tools.sh
  formatted_and_vetted
  export BALLAST_REQUIRE_TOOLS=1
  everything
  ;;
check)
  formatted_and_vetted
  everything
  ;;
race)
  count '$GO test -json -race -count=1 -timeout 20m $(libraries)' \
        'GOMAXPROCS=1 $GO test -json -race -count=1 -timeout 20m $(libraries)'
  ;;
fuzz)
  for package in $($GO list ./...); do
    for name in $($GO test -list '^Fuzz' "$package" | grep '^Fuzz' || true); do
      echo "== $package $name"
      $GO test -run '^$' -fuzz "^$name\$" -fuzztime "${2:-30s}" "$package"
    done
  done
  ;;
*)
  echo "usage: tests/run.sh test | check | race | fuzz [TIME]" >&2
  exit 2
  ;;
esac
