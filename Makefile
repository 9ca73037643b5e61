# Perigee: `make run` to see it, `make test` to check it, `make help` for the rest.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# A Go that deploy/install.sh fetched, where the system's is too old.
export PATH := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/perigee/go/bin:$(PATH)

# cgo packages build against the FFmpeg that deploy/ffmpeg/build.sh found or made.
# NVML's own header calls much of itself deprecated: that is for its binding to read.
CGO := eval "$$(deploy/ffmpeg/env.sh)" && export CGO_CFLAGS="$${CGO_CFLAGS:--O2 -g} -Wno-deprecated-declarations" &&

NO_RACE := /media/encode|/edge/encoder|/edge/probe|/cmd/perigee-edge|/bench|/cmd/run/e2e|/cmd/run/fleet|/webtest|/edge/instance|/media/capture
RUN ?= .

.PHONY: help deps ffmpeg build build-nox264 run test test-unit test-race test-fuzz test-e2e test-anbox lint bench clean

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

deps: ## install what is missing (Debian 12 or 13; needs root)
	@deploy/install.sh

ffmpeg: deps ## find FFmpeg 7.1, or build it once into the user's cache
	@deploy/ffmpeg/build.sh >/dev/null

build: ffmpeg ## build bin/perigee and bin/perigee-edge
	@mkdir -p bin
	CGO_ENABLED=0 go build -trimpath -o bin/ ./cmd/perigee ./bench/latencyapp
	$(CGO) go build -trimpath -o bin/ ./cmd/perigee-edge

build-nox264: deps ## build bin/perigee-edge without libx264: no H.264 in software, no GPL
	@PERIGEE_NO_X264=1 deploy/ffmpeg/build.sh >/dev/null
	@mkdir -p bin
	eval "$$(PERIGEE_NO_X264=1 deploy/ffmpeg/env.sh)" && go build -tags nox264 -trimpath -o bin/ ./cmd/perigee-edge
	@! ldd bin/perigee-edge | grep x264

run: build ## start one scheduler and one edge; prints the player's URL and a token
	@bin/perigee dev

# Packages one after the other: several start X servers, browsers or whole
# clusters and keep deadlines.
test: build test-unit test-race test-fuzz test-e2e ## everything: unit, race, fuzz, end to end in a real browser

test-unit: build
	$(CGO) go vet ./...
	$(CGO) go test -p 1 -count=1 $$(go list ./... | grep -v /cmd/run/e2e)
	$(CGO) go vet -tags nox264 ./cmd/perigee-edge
	$(CGO) go test -tags nox264 -count=1 -run WithoutX264 ./media/encode ./edge/gpu

# Not again under the race detector: what enters C or is a real browser's affair,
# and the fleet, in whose long bubbles the detector itself crashes (Go 1.26.8:
# its shadow stack grows with each step of synctest.Run).
test-race: build
	CGO_ENABLED=1 go test -race -p 1 -count=1 $$(go list ./... | grep -vE '$(NO_RACE)')

test-fuzz: build ## every fuzz target, for a short time
	@deploy/fuzz.sh 3s

test-e2e: build ## the browser tests alone
	$(CGO) go test -count=1 -timeout 15m ./cmd/run/e2e

test-anbox: build ## Canonical's own SDK against Perigee (SDK=path/to/anbox-stream-sdk.js)
	$(CGO) PERIGEE_ANBOX_SDK=$(abspath $(SDK)) go test -tags anboxsdk -count=1 -run TestCanonicalSDK -v ./cmd/run/e2e

lint: build ## golangci-lint (pinned in .ci/tools.mod) and shellcheck-clean scripts
	$(CGO) go tool -modfile=.ci/tools.mod golangci-lint run ./...
	bash -n deploy/*.sh deploy/ffmpeg/*.sh .ci/run

bench: build ## measure (make bench RUN=pattern); writes bench/results/latest.json
	$(CGO) go run ./bench -run '$(RUN)'

clean: ## remove what building made here (the caches stay)
	rm -rf bin
