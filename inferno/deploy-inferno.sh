# deploy-inferno.sh: compiles and tries the Limbo module. deploy.sh reads this file.
#
# limbo compiles on the host, emu runs Inferno as a program of the host. Both
# are looked for on PATH, then in an Inferno tree: $INFERNO_ROOT, else /usr/inferno.

# What deploy.sh sets, and functions that it calls.
# shellcheck shell=sh disable=SC2119,SC2120,SC2154

# Seconds that the Limbo test program may take, with a model to load.
readonly ffi_limit=300

# Sets inferno_root, limbo and emu, each empty where nothing was found.
find_inferno() {
	inferno_root=${INFERNO_ROOT:-}
	limbo=$(in_inferno limbo)
	emu=$(in_inferno emu emu-g)
	[ -z "$inferno_root" ] || return 0
	if [ -f /usr/inferno/module/sys.m ]; then
		inferno_root=/usr/inferno
		return 0
	fi
	# A tool that is on PATH usually stands in ROOT/SYSTEM/PROCESSOR/bin.
	for tool in "$limbo" "$emu"; do
		[ -n "$tool" ] || continue
		tree=$(CDPATH='' cd -- "$(dirname -- "$tool")/../../.." && pwd) || continue
		if [ -f "$tree/module/sys.m" ]; then
			inferno_root=$tree
			return 0
		fi
	done
}

# Prints the path of the first of the programs that is on PATH or in a tree.
in_inferno() {
	for tool in "$@"; do
		if command -v "$tool"; then
			return 0
		fi
	done
	# A tree may hold the programs of many machines, under Inferno's names for them.
	case $(uname -s) in
	Darwin) system=MacOSX ;;
	SunOS) system=Solaris ;;
	*) system=$(uname -s) ;;
	esac
	case $(uname -m) in
	x86_64 | amd64) processors='amd64 386' ;;
	i?86) processors=386 ;;
	aarch64 | arm64) processors='arm64 arm' ;;
	arm*) processors=arm ;;
	ppc* | powerpc*) processors=power ;;
	*) processors='mips spim sparc' ;;
	esac
	for tool in "$@"; do
		for processor in $processors; do
			candidate=${INFERNO_ROOT:-/usr/inferno}/$system/$processor/bin/$tool
			if [ -x "$candidate" ]; then
				printf '%s\n' "$candidate"
				return 0
			fi
		done
	done
}

# need_inferno PROGRAM PATH: fails unless the program and its tree were found.
need_inferno() {
	[ -n "$2" ] || fail "no $1 found, neither on PATH nor in ${INFERNO_ROOT:-/usr/inferno}: install hosted Inferno (https://github.com/inferno-os/inferno-os) and set INFERNO_ROOT to its directory"
	[ -f "$inferno_root/module/sys.m" ] || fail "${inferno_root:-/usr/inferno} is no Inferno tree (it has no module/sys.m): set INFERNO_ROOT to the directory of one"
}

compile_limbo() {
	install=
	if [ "${1:-}" = --install ]; then
		install=yes
		shift
	fi
	[ -n "$install" ] || [ $# -eq 0 ] || misuse "compile takes no argument but --install"
	[ $# -le 1 ] || misuse "compile --install takes one DIRECTORY"
	find_inferno
	need_inferno limbo "$limbo"
	objects=$target/inferno
	mkdir -p "$objects" || fail "cannot make the directory $objects"
	# The sources first: an older llambo-ffi.m may be installed among Inferno's own.
	for module in llambo-ffi llambo-ffi-test llambofs; do
		"$limbo" "-I$here" "-I$inferno_root/module" -gw -o "$objects/$module.dis" "$here/$module.b" >&2 ||
			fail "$module.b does not compile"
	done
	say "compiled $objects/llambo-ffi.dis, llambo-ffi-test.dis and llambofs.dis"
	[ -z "$install" ] || install_limbo "${1:-$inferno_root}"
}

# Puts the files where Inferno keeps its own.
install_limbo() {
	put "$objects/llambo-ffi.dis" "$1/dis/lib"
	put "$objects/llambo-ffi-test.dis" "$1/dis"
	put "$objects/llambofs.dis" "$1/dis"
	put "$here/llambo-ffi.m" "$1/module"
	put "$here/llambo-ffi.2" "$1/man/2" llambo-ffi
	put "$here/llambofs.4" "$1/man/4" llambofs
}

# put FILE DIRECTORY [NAME]
put() {
	copy=$2/${3:-$(basename -- "$1")}
	mkdir -p "$2" || fail "cannot make the directory $2"
	# Beside the old one, then over it: a running Inferno never sees half a file.
	cp "$1" "$copy.new" || fail "cannot write $copy.new"
	mv -f "$copy.new" "$copy" || fail "cannot write $copy"
	say "installed $copy"
}

# Runs the Limbo test program against the bridge that serves, or one of its own.
test_ffi() {
	[ $# -le 1 ] || misuse "test-ffi takes one MODEL"
	model=
	if [ $# -eq 1 ]; then
		[ -f "$1" ] || fail "$1: no such model file"
		model=$(CDPATH='' cd -- "$(dirname -- "$1")" && pwd)/$(basename -- "$1")
	fi
	find_inferno
	need_inferno emu "$emu"
	have timeout || fail "timeout is missing here: install GNU coreutils"
	compile_limbo
	need_bridge
	make_work
	socket_for_ffi
	run_ffi_test | tee "$work/output"
	verdict=$(sed -n 's/^verdict: //p' "$work/output")
	case $verdict in
	*' passed, 0 failed') ;;
	'') fail "no verdict: the emulator ended early, or took more than $ffi_limit s" ;;
	*) fail "$verdict" ;;
	esac
}

# Sets socket to that of the bridge that runs, if one does, else starts one.
socket_for_ffi() {
	instance ''
	if ask "$socket" ping; then
		say "testing the bridge on $socket; the model that it has now is loaded again at the end"
		return 0
	fi
	start_own_bridge
	socket=$work/sock
}

# emu always ends itself and its process group with SIGKILL, so its exit status
# says nothing, and it needs the group of its own that timeout gives it. Waited
# for in the background, the shell does not report the signal.
run_ffi_test() {
	trap 'kill "${!:-}" 2>/dev/null; exit 130' INT TERM HUP
	timeout -k 5 "$ffi_limit" "$emu" "-r$inferno_root" -c0 /dis/sh.dis -c "
		echo nobroken >/dev/sysctl
		bind -b $(inferno_quote "#U*$objects") /dis/lib
		/dis/lib/llambofs.dis -m /chan $(inferno_quote "unix!$socket")
		/dis/lib/llambo-ffi-test.dis -a $(inferno_quote "unix!$socket") -m /chan ${model:+$(inferno_quote "$model")}
		echo halt >/dev/sysctl
	" </dev/null 2>&1 &
	wait $! 2>/dev/null || :
}

# The text as one word of Inferno's shell.
inferno_quote() {
	printf "'%s'" "$(printf '%s' "$1" | sed "s/'/''/g")"
}

inferno_status() {
	find_inferno
	if [ -n "$limbo$emu" ]; then
		printf 'inferno: limbo %s, emu %s, tree %s\n' "${limbo:-not found}" "${emu:-not found}" "${inferno_root:-not found}"
	else
		printf 'inferno: not installed (optional; looked on PATH and in %s)\n' "${INFERNO_ROOT:-/usr/inferno}"
	fi
}
