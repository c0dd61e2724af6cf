# Targets with a "## text" are listed by make help.

GO       ?= go
VERSION  := $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
LDFLAGS  := -s -w -X ballast/cmd/control.Version=$(VERSION)
FUZZTIME ?= 30s
COUNT    ?= 1
BENCHES  ?= Unequal|Btrfs|Trouble|Peers|JournalCopies

export PATH := $(PATH):/usr/local/go/bin
export GOFLAGS := -buildvcs=false

.DEFAULT_GOAL := help
.PHONY: help build run test check race fuzz bench torture clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## the static binary bin/ballast
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/ballast ./cmd/ballast

DEMO = BALLAST_STATE_DIR=.ballast/state BALLAST_RUN_DIR=.ballast/run bin/ballast

run: build ## a demo volume on three sparse files in .ballast/, mounted and served until Ctrl-C
	@mkdir -p .ballast/mnt
	@[ -d .ballast/state/demo ] || \
	  { $(DEMO) create demo .ballast/disk1.img:1GiB .ballast/disk2.img:2GiB .ballast/disk3.img:3GiB && \
	    $(DEMO) export create demo/disk 4GiB; }
	@$(DEMO) serve demo --watch $$([ ! -w /dev/fuse ] || echo --mount .ballast/mnt)

test: ## install what the tests need (as root), run all of them, end with their count
	@tests/run.sh test

check: ## gofmt, go vet, and all tests without installing anything
	@tests/run.sh check

race: ## every package's tests under the race detector, twice, the second time on one processor
	@tests/run.sh race

fuzz: ## each fuzz test for FUZZTIME (30s)
	@tests/run.sh fuzz $(FUZZTIME)

bench: ## speed beside disks and other servers, as a table and in bench.json; FULL=1: also scale, memory and micro-benchmarks
	@tests/install-tools.sh bench
	BALLAST_BENCH_JSON=$(CURDIR)/bench.json $(GO) test -tags bench -v -count=$(COUNT) -timeout 3h \
	  $(if $(FULL),,-short -run 'Table|$(BENCHES)') ./tests/bench
	$(if $(FULL),$(GO) test -run '^$$' -bench . -benchtime 1s -count=$(COUNT) ./...)

torture: ## the long versions of the crash, fault and corruption tests, and a guest kernel
	@tests/install-tools.sh torture
	BALLAST_TORTURE=1 $(GO) test -tags torture -v -count=1 -timeout 6h -run 'Torture' ./...

clean: ## remove bin/ (the demo volume in .ballast/ stays)
	rm -rf bin
