# make demo     the whole way of a secret, in a temporary folder
# make demo-cluster    the same on a cluster, which it brings along: an API server and etcd
# make test     every test, with the race detector
# make check    the quick loop: vet, formatting, tests without the race detector
# make browser  the status page in Chromium; part of make test
# make screenshots     the pictures of docs/images, from that test
# make soak     random commits, faults and reads around an agent for SOAK (docs/reliability.md)
# make control-plane   kube-apiserver, etcd and kubectl, which tests of a cluster need (some minutes)
# make bench    the figures of docs/benchmarks.md
# make bench-scale     those of up to 100,000 manifests, some three minutes
# make lint     formatting, vet, the direction of imports
# make fuzz     each fuzzer for FUZZTIME (make test: for 3 s)
# make build    bin/sealward
# make release-check   .goreleaser.yaml: the check, and a snapshot for this machine (no part of CI)

GO       ?= go
FUZZTIME ?= 60s
SOAK     ?= 10m
TOOLS    := bin/tools
SOPS     := v3.13.3
AGE      := v1.3.1
KUSTOMIZE := v5.8.1
GORELEASER := v2.16.0
KUBE_VERSION := -X k8s.io/component-base/version.gitVersion=v1.35.4 -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=35
export PATH := $(CURDIR)/$(TOOLS):$(PATH)

.PHONY: build demo demo-cluster test check browser chromium screenshots soak control-plane bench bench-scale lint fuzz tools cross release-files release-check clean

# A release says VERSION, COMMIT and DATE; without, the binary has what Go notes in it.
build:
	$(GO) build -trimpath $(if $(VERSION),-ldflags '-X main.version=$(VERSION) -X main.commit=$(COMMIT) -X main.date=$(DATE)') -o bin/sealward ./cmd/sealward

demo: build
	bin/sealward demo

demo-cluster: build control-plane
	PATH="$(CURDIR)/bin:$$PATH" $(GO) run ./test/democluster

# The real programs that tests compare with: sops, age and kustomize are built through
# the Go module proxy, the others come from the system's packages. git comes with the
# machine.
tools: control-plane $(TOOLS)/sops $(TOOLS)/age $(TOOLS)/kustomize $(TOOLS)/promtool
	@for tool in gpg:gnupg ssh-keygen:openssh-client sshd:openssh-server openssl:openssl curl:curl jq:jq; do \
		PATH="$$PATH:/usr/sbin" command -v $${tool%%:*} >/dev/null && continue; \
		echo "installing $${tool##*:}, which the tests use"; \
		{ apt-get update -qq && apt-get install -y -qq $${tool##*:}; } || { echo "the tests need $${tool%%:*}: install $${tool##*:}"; exit 1; }; \
	done
$(TOOLS)/sops:
	GOFLAGS= GOBIN=$(CURDIR)/$(TOOLS) $(GO) install github.com/getsops/sops/v3/cmd/sops@$(SOPS)
$(TOOLS)/kustomize:
	GOFLAGS= GOBIN=$(CURDIR)/$(TOOLS) $(GO) install sigs.k8s.io/kustomize/kustomize/v5@$(KUSTOMIZE)
$(TOOLS)/age:
	GOFLAGS= GOBIN=$(CURDIR)/$(TOOLS) $(GO) install filippo.io/age/cmd/age@$(AGE) filippo.io/age/cmd/age-keygen@$(AGE)

# Of Debian's prometheus package only promtool is taken: installing it would start a server.
$(TOOLS)/promtool:
	@mkdir -p $(TOOLS); set -e; \
	if command -v promtool >/dev/null; then ln -sf "$$(command -v promtool)" $@; exit 0; fi; \
	dir=$$(mktemp -d); trap 'rm -rf "$$dir"' EXIT; chmod 755 "$$dir"; echo "fetching promtool, which the tests use"; \
	(cd "$$dir" && { apt-get download -qq prometheus || { apt-get update -qq && apt-get download -qq prometheus; }; } && dpkg-deb -x prometheus_*.deb .) \
		|| { echo "the tests need promtool: install prometheus"; exit 1; }; \
	cp "$$dir/usr/bin/promtool" $@

test: tools lint
	$(GO) test -race -timeout 25m ./...
	$(GO) test -run TestDamage ./unseal/store
	$(GO) -C test/bench vet -mod=mod .
	$(MAKE) browser
	$(MAKE) fuzz FUZZTIME=3s

check: tools lint
	$(GO) test -timeout 10m ./...

# The status page is looked at in Debian's chromium, which is installed where it is
# missing. Who is not root on a system without apt-get goes without it, but never CI.
browser screenshots: chromium
	@if ! command -v chromium >/dev/null; then echo "SKIPPED: the status page was not looked at in a browser; install chromium"; exit 0; fi; \
	set -x; $(GO) -C test/browser vet . && $(GO) -C test/browser test -count 1 . $(if $(filter screenshots,$@),-update)

chromium:
	@command -v chromium >/dev/null && exit 0; \
	if [ -z "$$CI" ] && [ "$$(id -u)" != 0 ] && ! command -v apt-get >/dev/null; then exit 0; fi; \
	echo "installing chromium, which the tests use"; \
	{ apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >/dev/null; } || { echo "the tests need chromium: install it"; exit 1; }

# The schedule is drawn from a seed, which is printed: make soak SEED=N runs it again.
soak: control-plane
	$(GO) test -race -timeout 30m -v -run 'TestSoak|TestKill' ./test/faults -soak $(SOAK) -kills 200 -seed $(or $(SEED),0)
	$(GO) test -race -timeout 30m -v -run TestLeaderIsKilled ./test/replicas -leader-kills 50 -seed $(or $(SEED),0)

# The programs of a control plane are built through the Go module proxy. KUBEBUILDER_ASSETS
# names a folder that has them already.
CONTROL_PLANE := etcd kube-apiserver kubectl
ifdef KUBEBUILDER_ASSETS
control-plane:
	@for p in $(CONTROL_PLANE); do test -x "$(KUBEBUILDER_ASSETS)/$$p" || { echo "KUBEBUILDER_ASSETS has no $$p"; exit 1; }; done
else
control-plane: $(addprefix $(TOOLS)/,$(CONTROL_PLANE))
endif
$(TOOLS)/etcd: test/cluster/go.mod
	$(GO) -C test/cluster build -mod=mod -ldflags '-s -w' -o $(CURDIR)/$@ go.etcd.io/etcd/server/v3
$(TOOLS)/kube-apiserver $(TOOLS)/kubectl: test/cluster/go.mod
	$(GO) -C test/cluster build -mod=mod -ldflags '-s -w $(KUBE_VERSION)' -o $(CURDIR)/$@ k8s.io/kubernetes/cmd/$(@F)

bench: tools
	$(GO) test -run '^$$' -bench 'Binding|Open' ./seal ./unseal
	$(GO) test -run '^$$' -bench Projection -benchtime 1x ./plugins/kubernetes
	$(GO) -C test/bench run -mod=mod .

bench-scale: tools
	$(GO) -C test/bench run -mod=mod . -only scale

lint:
	@out=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$out" ]; then echo "gofmt these files:"; echo "$$out"; exit 1; fi
	$(GO) vet ./...
	$(GO) test ./test/imports

# The other systems that a release is built for.
cross:
	GOOS=windows $(GO) build -o /dev/null ./cmd/sealward
	GOOS=darwin GOARCH=arm64 $(GO) build -o /dev/null ./cmd/sealward

# Go's fuzzer now and then takes the end of its own time for a failure, without an input
# that fails: that, and only that, is tried once more.
fuzz:
	@for f in FuzzParse:./seal/manifest FuzzLoad:./seal FuzzBinding:./seal FuzzOpen:./unseal FuzzDotenv:./unseal FuzzOpenText:./unseal FuzzOpenAge:./unseal FuzzString:./unseal/jsontext FuzzVerify:./unseal/audit FuzzVerify:./gitops/source; do \
		run() { $(GO) test -run '^$$' -fuzz "^$${f%%:*}$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 5s $${f##*:} 2>&1; }; \
		out=$$(run); code=$$?; echo "$$out"; \
		case "$$code $$out" in \
			0*) ;; \
			*"Failing input"*) exit 1 ;; \
			*"context deadline exceeded"*) run || exit 1 ;; \
			*) exit 1 ;; \
		esac; \
	done

# What goes into an archive beside the binary.
RELEASE := bin/release
release-files: build
	@rm -rf $(RELEASE)/completions $(RELEASE)/man1; mkdir -p $(RELEASE)/completions
	@for s in bash zsh fish; do bin/sealward completion $$s > $(RELEASE)/completions/sealward.$$s || exit 1; done
	@bin/sealward completion powershell > $(RELEASE)/completions/sealward.ps1
	@bin/sealward man $(RELEASE)/man1

# Compiling goreleaser takes some five minutes on two cores, and changes here are rare: CI
# goes without. Of the archives, that of this machine's platform is made and looked into.
release-check: $(TOOLS)/goreleaser
	$(TOOLS)/goreleaser check
	@mkdir -p $(RELEASE)
	sed 's/goos: \[.*/goos: ['$$($(GO) env GOOS)']/; s/goarch: \[.*/goarch: ['$$($(GO) env GOARCH)']/' .goreleaser.yaml > $(RELEASE)/one.yaml
	$(TOOLS)/goreleaser release --snapshot --clean --skip docker --config $(RELEASE)/one.yaml
	@set -e; cd dist; sha256sum -c checksums.txt; tar -xOzf sealward_*.tar.gz sealward > sealward; chmod 755 sealward; ./sealward version; ./sealward version | grep -q '^commit '; \
	for f in LICENSE README.md docs/agent.md completions/sealward.bash completions/sealward.zsh completions/sealward.fish completions/sealward.ps1 man1/sealward.1 man1/sealward-create-secret.1; do \
		tar -tzf sealward_*.tar.gz | grep -qx "$$f" || { echo "the archive lacks $$f"; exit 1; }; \
	done; if ldd sealward 2>/dev/null; then echo "the binary is not static"; exit 1; fi
$(TOOLS)/goreleaser:
	GOFLAGS= GOBIN=$(CURDIR)/$(TOOLS) $(GO) install github.com/goreleaser/goreleaser/v2@$(GORELEASER)

clean:
	rm -rf bin dist
