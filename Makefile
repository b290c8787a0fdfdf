# make demo     build, then watch it work on real files (DEMO_SOURCE=, DEMO_DISK_IOPS=)
# make test     what you need while you work, with what that needs
# make races    what threads race for, under many schedules
# make conformance  the suites that others test filesystems with, for most of an hour; needs root
# make micro    what each way of a read costs, beside its bound
# make crash    kill the daemons 900 times and look for what was lost
# make faults    servers and links fail in every way while an application verifies; needs root
# make trees    what many small files cost, beside libfuse's passthrough
# make lending  what it costs a machine to lend its memory; needs root, half an hour
# make bench    the quick plan, from nothing to a report; needs root
# make packages .deb and .rpm, into target/packages
# make try-packages  install them into a clean Debian, make a pool of two such machines, remove them; needs root
# make try-ansible   the Ansible role, on three clean Debians with systemd; needs root
# make try-watch    metrics, alerts and dashboard, with a real Prometheus; needs root
# make lab      two virtual machines (QEMU), one lends to the other, and its power is cut; needs root, ten minutes and the packages
# make ci       what must pass before a change lands

CARGO ?= cargo

.PHONY: all demo test races conformance micro crash faults trees lending bench performance packages try-packages try-ansible try-watch lab ci fuzz tools clean

all:
	$(CARGO) build --release --workspace

demo:
	$(CARGO) build --release --workspace
	target/release/rampool-bench demo $(if $(DEMO_SOURCE),--source '$(DEMO_SOURCE)') $(if $(DEMO_DISK_IOPS),--disk-iops $(DEMO_DISK_IOPS))

test: tools
	$(CARGO) build --workspace
	$(CARGO) test --workspace
	$(MAKE) races RACES_ROUNDS=1000
	@if [ "$$(id -u)" -eq 0 ]; then \
		deploy/conformance && target/debug/rampool-bench conform --quick && \
		deploy/faults && target/debug/rampool-bench faults --seconds 2; \
	else \
		echo 'not run: rampool-bench conform and faults, which need root'; \
	fi

# Only some of it: make conformance SUITES='fsx tree'
conformance: all
	deploy/conformance
	target/release/rampool-bench conform $(SUITES)

# Each test under twice RACES_ROUNDS schedules. RACE names one test, RACES_SCHEDULE the file in which
# a failure has left its schedule. Features as with the whole workspace, so that nothing else is built anew.
RACES_ROUNDS ?= 4000
RACES_SCHEDULE ?=
RACE ?= races::
races:
	RACES_ROUNDS=$(RACES_ROUNDS) RACES_SCHEDULE=$(RACES_SCHEDULE) \
		$(CARGO) test --workspace --bin rampool --features rampool/shuttle -- $(RACE)

micro: all
	target/release/rampool-bench micro --check

crash: all
	target/release/rampool-bench crash --rounds 300 --kill client
	target/release/rampool-bench crash --rounds 300 --kill server
	target/release/rampool-bench crash --rounds 300 --kill both

faults: all
	deploy/faults
	target/release/rampool-bench faults --check

trees: all
	deploy/passthrough
	target/release/rampool-bench trees

lending: all
	deploy/lending
	target/release/rampool-bench lending --plots target/lending

# Another plan, elsewhere: make bench PLAN=bench/plans/full.toml RESULTS=/var/tmp/full
PLAN ?= bench/plans/quick.toml
RESULTS ?= target/results
bench: all
	deploy/benchmarks
	target/release/rampool-bench run $(PLAN) --out $(RESULTS)

# The same, and its tables into docs/performance.md.
performance: bench
	target/release/rampool-bench report $(RESULTS) --into docs/performance.md

packages:
	deploy/package

try-watch: all
	deploy/try-watch

try-packages: packages
	deploy/try-packages

try-ansible: packages
	deploy/try-ansible

lab: packages
	deploy/lab/run

ci:
	.ci/run

# Each decoder for FUZZ_SECONDS on hostile bytes.
FUZZ_SECONDS ?= 30
fuzz:
	deploy/fuzz $(FUZZ_SECONDS)

tools:
	@deploy/tools

clean:
	$(CARGO) clean
