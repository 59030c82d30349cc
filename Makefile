# heartbeat: two nodes keep a service alive.
#
#   make                 build the programs into build/
#   make install         put everything where Debian's package of the original
#                        has it; DESTDIR= stages a package, PREFIX= moves /usr
#   make demo            two nodes in network namespaces, a crash, a failback
#   make test            every check and every test (root, namespaces)

# A recipe that dies half way leaves nothing that looks finished.
.DELETE_ON_ERROR:
.SUFFIXES:

PREFIX  ?= /usr
DESTDIR ?=
BUILD   ?= build

SYSCONF  = $(DESTDIR)/etc
HADIR    = $(SYSCONF)/ha.d
VARLIB   = $(DESTDIR)/var/lib/heartbeat
LIBEXEC  = $(DESTDIR)$(PREFIX)/libexec/heartbeat
SHARE    = $(DESTDIR)$(PREFIX)/share/heartbeat
BINDIR   = $(DESTDIR)$(PREFIX)/bin
SBINDIR  = $(DESTDIR)$(PREFIX)/sbin
MANDIR   = $(DESTDIR)$(PREFIX)/share/man
DOCDIR   = $(DESTDIR)$(PREFIX)/share/doc/heartbeat
BASHCOMP = $(DESTDIR)$(PREFIX)/share/bash-completion/completions
SYSTEMD  = $(DESTDIR)$(PREFIX)/lib

# Go is often installed without being in root's PATH.
GO    ?= $(shell command -v go 2>/dev/null || echo /usr/local/go/bin/go)
GOFMT ?= $(shell command -v gofmt 2>/dev/null || echo /usr/local/go/bin/gofmt)

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS  = -s -w -X main.version=$(VERSION)
# The daemon names its commit; outside a usable repository it cannot.
VCS     := $(shell git rev-parse HEAD >/dev/null 2>&1 && echo true || echo false)
GOBUILD  = CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=$(VCS) -ldflags '$(LDFLAGS)'

MD2MAN      = $(GO) run github.com/cpuguy83/go-md2man/v2@v2.0.7
STATICCHECK = $(GO) run honnef.co/go/tools/cmd/staticcheck@v0.8.2

PROGRAMS = heartbeat hbctl

# hbctl answers under the original's names.
SHARE_NAMES = hb_standby hb_takeover hb_addnode hb_delnode hb_setweight hb_setsite \
              ResourceManager req_resource mach_down

# Types of resource whose OCF agent is reached by positional arguments.
WRAPPED = AudibleAlarm Delay Filesystem ICP IPsrcaddr LVM LinuxSCSI MailTo OCF Raid1 \
          SendArp ServeRAID WAS WinPopup Xinetd apache db2 ids portblock

PAGES = heartbeat.8 hbctl.8 cl_status.1 hb_standby.1 hb_takeover.1 \
        ha.cf.5 haresources.5 authkeys.5 heartbeat.toml.5

UNITS = heartbeat.service heartbeat-release.service

# Test packages run side by side and share two cores with real daemons.
TESTFLAGS ?= -count=1 -p 2 -parallel 4 -timeout 30m
# Virtual machines run alone, after the rest: they are slow themselves, and would
# make it slow.
VMFLAGS   ?= -count=1 -timeout 20m
FUZZTIME  ?= 30s
# Hours of cluster time that make sim runs, its first seed, and further flags:
# -bypass leaves wire format and digests out, -transcript SEED tells one run.
SIMHOURS  ?= 100
SIMSEED   ?= 1
SIMFLAGS  ?=

.PHONY: all build man install install-programs install-config install-docs accounts uninstall \
        demo test check vet lint bench interop vm sim fuzz deps clean

all: build

build:
	@mkdir -p $(BUILD)
	@for p in $(PROGRAMS); do \
		echo "$(BUILD)/$$p $(VERSION)"; \
		$(GOBUILD) -o $(BUILD)/$$p ./cmd/$$p || exit 1; \
	done

man: $(addprefix $(BUILD)/man/,$(PAGES))

$(BUILD)/man/%: docs/man/%.md
	@mkdir -p $(BUILD)/man
	@echo "$@"
	@$(MD2MAN) -in $< -out $@

$(BUILD)/completion.bash: build
	@$(BUILD)/hbctl completion bash > $@

install: install-programs install-config install-docs accounts

install-programs: build $(BUILD)/completion.bash
	install -d $(LIBEXEC) $(SHARE) $(BINDIR) $(SBINDIR) $(BASHCOMP)
	install -m 755 $(BUILD)/heartbeat $(LIBEXEC)/heartbeat
	install -m 755 $(BUILD)/hbctl $(SBINDIR)/hbctl
	ln -sfn ../sbin/hbctl $(BINDIR)/cl_status
	for n in $(SHARE_NAMES); do ln -sfn ../../sbin/hbctl $(SHARE)/$$n || exit 1; done
	for s in ha_propagate ocf-resource; do \
		sed 's|@PREFIX@|$(PREFIX)|g' etc/bin/$$s > $(SHARE)/$$s && chmod 755 $(SHARE)/$$s || exit 1; \
	done
	install -m 644 $(BUILD)/completion.bash $(BASHCOMP)/hbctl

# A file in /etc/ha.d belongs to the administrator, or to another package, unless
# its second line says that it came from here: only then is it replaced.
install-config:
	install -d $(HADIR)/rc.d $(HADIR)/resource.d $(HADIR)/conf $(SYSCONF)/init.d $(SYSCONF)/logrotate.d \
		$(SYSTEMD)/systemd/system $(SYSTEMD)/tmpfiles.d $(SYSTEMD)/sysusers.d
	cd etc/ha.d && for f in README.config harc shellfuncs rc.d/*; do \
		to=$(HADIR)/$$f; mode=755; \
		case $$f in README.config|shellfuncs) mode=644;; esac; \
		if [ -e $$to ] && ! sed -n 2p $$to | grep -q '^# heartbeat: '; then \
			echo "$$to is not ours: kept"; continue; \
		fi; \
		sed 's|@PREFIX@|$(PREFIX)|g' $$f > $$to.new && chmod $$mode $$to.new && mv -f $$to.new $$to || exit 1; \
	done
	for n in $(WRAPPED); do \
		to=$(HADIR)/resource.d/$$n; \
		[ -e $$to ] || ln -sfn $(PREFIX)/share/heartbeat/ocf-resource $$to || exit 1; \
	done
	[ -e $(SYSCONF)/heartbeat ] || ln -s ha.d $(SYSCONF)/heartbeat
	sed 's|@PREFIX@|$(PREFIX)|g' etc/init.d/heartbeat > $(SYSCONF)/init.d/heartbeat.new
	chmod 755 $(SYSCONF)/init.d/heartbeat.new
	mv -f $(SYSCONF)/init.d/heartbeat.new $(SYSCONF)/init.d/heartbeat
	for u in $(UNITS); do \
		sed 's|@PREFIX@|$(PREFIX)|g' etc/systemd/$$u > $(SYSTEMD)/systemd/system/$$u && \
		chmod 644 $(SYSTEMD)/systemd/system/$$u || exit 1; \
	done
	install -m 644 etc/tmpfiles.d/heartbeat.conf $(SYSTEMD)/tmpfiles.d/heartbeat.conf
	install -m 644 etc/sysusers.d/heartbeat.conf $(SYSTEMD)/sysusers.d/heartbeat.conf
	install -m 644 etc/logrotate.d/heartbeat $(SYSCONF)/logrotate.d/heartbeat
	install -d -m 755 $(VARLIB) $(VARLIB)/cores
	install -d -m 700 $(VARLIB)/cores/root $(VARLIB)/cores/nobody $(VARLIB)/cores/hacluster

install-docs: man
	install -d $(DOCDIR) $(MANDIR)/man1 $(MANDIR)/man5 $(MANDIR)/man8
	install -m 644 etc/doc/* LICENSE docs/PROTOCOL.md docs/COMPATIBILITY.md docs/SAFETY.md $(DOCDIR)/
	for p in $(PAGES); do install -m 644 $(BUILD)/man/$$p $(MANDIR)/man$${p##*.}/$$p || exit 1; done

# A staged tree is unpacked by a package manager, which makes the accounts itself.
accounts:
ifeq ($(DESTDIR),)
	sh etc/bin/accounts
endif

# The configuration, the state and the accounts stay.
uninstall:
	rm -f $(LIBEXEC)/heartbeat $(SBINDIR)/hbctl $(BINDIR)/cl_status $(BASHCOMP)/hbctl
	for n in $(SHARE_NAMES) ha_propagate ocf-resource; do rm -f $(SHARE)/$$n; done
	for n in $(WRAPPED); do \
		[ ! -L $(HADIR)/resource.d/$$n ] || rm -f $(HADIR)/resource.d/$$n; \
	done
	cd etc/ha.d && for f in README.config harc shellfuncs rc.d/*; do \
		if sed -n 2p $(HADIR)/$$f 2>/dev/null | grep -q '^# heartbeat: '; then rm -f $(HADIR)/$$f; fi; \
	done
	rm -f $(SYSCONF)/init.d/heartbeat $(SYSCONF)/logrotate.d/heartbeat $(addprefix $(SYSTEMD)/systemd/system/,$(UNITS)) \
		$(SYSTEMD)/tmpfiles.d/heartbeat.conf $(SYSTEMD)/sysusers.d/heartbeat.conf
	for p in $(PAGES); do rm -f $(MANDIR)/man$${p##*.}/$$p; done
	rm -rf $(DOCDIR)
	for d in $(HADIR)/rc.d $(HADIR)/resource.d $(HADIR)/conf $(HADIR) $(LIBEXEC) $(SHARE); do \
		rmdir $$d 2>/dev/null || true; \
	done

demo: deps build
	$(GO) run ./integration/demo

bench: deps build
	$(GO) run ./integration/bench

# Every scenario with heartbeat 3.0.6 on both nodes, on either and on none:
# about 20 minutes. The table goes to stdout and into the document.
interop: deps build
	$(GO) run ./integration/interop/matrix -document docs/COMPATIBILITY.md

# Watchdogs, machines that stand still, serial ports and systemd, in virtual
# machines under software emulation: the last part of make test, and verbose.
vm: deps
	$(GO) test $(VMFLAGS) -v ./integration/vm

check: vet
	@bad=$$($(GOFMT) -l $$(git ls-files '*.go')); \
	if [ -n "$$bad" ]; then echo "not formatted with gofmt:"; echo "$$bad"; exit 1; fi
	@for s in $$(git ls-files etc .ci | xargs grep -lE '^#!/bin/(ba)?sh'); do \
		sh -n $$s || exit 1; \
	done

vet:
	$(GO) vet ./...

test: deps check
	@[ "$$(id -u)" = 0 ] || { echo "make test: the tests make network namespaces and must run as root"; exit 1; }
	failed=0; \
	$(GO) test $(TESTFLAGS) $$($(GO) list ./... | grep -v '/integration/vm$$') || failed=1; \
	$(GO) test $(VMFLAGS) ./integration/vm || failed=1; \
	exit $$failed

lint:
	$(STATICCHECK) ./...

sim:
	$(GO) test -count=1 -timeout 0 -v -run '^TestSimulate$$' ./cluster/sim -hours $(SIMHOURS) -seed $(SIMSEED) $(SIMFLAGS)

# Every fuzz target of every package, FUZZTIME each.
fuzz:
	@for pkg in $$($(GO) list ./...); do \
		for f in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz'); do \
			echo "$$pkg $$f $(FUZZTIME)"; \
			$(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) $$pkg || exit 1; \
		done; \
	done

deps:
	@sh etc/bin/deps

clean:
	rm -rf $(BUILD)
