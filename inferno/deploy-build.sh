# deploy-build.sh: what building and testing need, the build, and why it failed.
# deploy.sh reads this file.

# What deploy.sh sets, and functions that it calls.
# shellcheck shell=sh disable=SC2119,SC2120,SC2154

# --- What has to be installed ---

# Whether FILE is a libclang by its name, as the crate clang-sys has it, and is
# there. libclang-cpp.so.14 is another library.
is_libclang() {
	case ${1##*/} in
	*-cpp.*) return 1 ;;
	libclang.so | libclang.so.* | libclang-*.so | libclang-*.so.* | libclang.dylib) [ -f "$1" ] ;;
	*) return 1 ;;
	esac
}

libclang_in() {
	for library in "$1"/libclang.* "$1"/libclang-*; do
		! is_libclang "$library" || return 0
	done
	return 1
}

# Stands before the system's folders, so that tests can lay out others.
readonly system_root="${DEPLOY_SYSTEM_ROOT:-}"

# Prints the first folder with a libclang, of those where clang-sys looks.
libclang_folder() (
	prefix=$("${LLVM_CONFIG_PATH:-llvm-config}" --prefix 2>/dev/null) || prefix=
	xcode=$(xcode-select --print-path 2>/dev/null) || xcode=
	IFS=:
	set -f
	# shellcheck disable=SC2086 # lists of folders
	set -- ${LD_LIBRARY_PATH:-} ${LIBRARY_PATH:-}
	set +f
	IFS=' '
	for folder in "$@" ${prefix:+"$prefix/bin" "$prefix/lib" "$prefix/lib64"} \
		${xcode:+"$xcode/Toolchains/XcodeDefault.xctoolchain/usr/lib"} \
		"$system_root"/usr/lib*/*/ "$system_root"/usr/lib*/ "$system_root"/usr/lib*/*/*/ \
		"$system_root"/usr/local/lib*/ "$system_root"/usr/local/lib*/*/ "$system_root"/usr/local/lib*/*/*/ \
		"$system_root"/usr/local/llvm*/lib*/ "$system_root"/usr/local/opt/llvm*/lib/ \
		"$system_root"/Library/Developer/CommandLineTools/usr/lib \
		"$system_root"/Applications/Xcode.app/Contents/Developer/Toolchains/XcodeDefault.xctoolchain/usr/lib; do
		if [ -n "$folder" ] && libclang_in "$folder"; then
			printf '%s\n' "$folder"
			return 0
		fi
	done
	return 1
)

# Whether clang's own stddef.h is there, without which libclang reads no C: it is
# not in Debian's libclang1, which doxygen installs. Where there is a clang, or
# the user names folders, the build asks these.
have_clang_headers() {
	if have clang || [ -n "${BINDGEN_EXTRA_CLANG_ARGS:-}" ]; then
		return 0
	fi
	for header in "$1"/clang/*/include/stddef.h "$system_root"/usr/include/clang/*/include/stddef.h \
		"$system_root"/usr/lib*/clang/*/include/stddef.h "$system_root"/usr/lib*/*/lib*/clang/*/include/stddef.h; do
		[ ! -f "$header" ] || return 0
	done
	return 1
}

# With LIBCLANG_PATH set, clang-sys looks nowhere else.
have_libclang() {
	if [ -n "${LIBCLANG_PATH:-}" ]; then
		is_libclang "$LIBCLANG_PATH" || libclang_in "$LIBCLANG_PATH"
	else
		folder=$(libclang_folder) && have_clang_headers "$folder"
	fi
}

# Prints the Debian packages that are missing for the given purposes.
missing_packages() {
	for purpose in "$@"; do
		case $purpose in
		build)
			have cmake || echo cmake
			have c++ || have g++ || have clang++ || echo g++
			have cc || echo gcc
			have make || have ninja || echo make
			have_libclang || echo libclang-dev
			# Without them cargo reaches no crates.io. Only a bare Debian comes so.
			! have apt-get || [ -f /etc/ssl/certs/ca-certificates.crt ] || echo ca-certificates
			;;
		model)
			have python3 || echo python3
			python3 -m pip --version >/dev/null 2>&1 || echo python3-pip
			;;
		test)
			for tool in fish gdb git haproxy jq mandoc openssl prometheus-node-exporter python3 shellcheck socat zsh; do
				have "$tool" || echo "$tool"
			done
			python3 -c 'import jsonschema' 2>/dev/null || echo python3-jsonschema
			have node || echo nodejs
			have promtool || echo prometheus
			have script || echo bsdutils
			have ip || echo iproute2
			have s6-supervise || echo s6
			{ have systemd-analyze && have systemd-socket-activate; } || echo systemd
			# OpenBSD's: the documents' `nc -U` needs it.
			nc -h 2>&1 | grep -q -e '-[0-9A-Za-z]*U' || echo netcat-openbsd
			# Perl whole: perl-base has no JSON::PP.
			perl -MJSON::PP -e 1 2>/dev/null || echo perl
			;;
		long)
			for tool in python3 strace; do
				have "$tool" || echo "$tool"
			done
			;;
		esac
	done | sort -u
}

# Installs what is missing for the purposes, or says what to install.
provide() {
	packages=$(missing_packages "$@" | tr '\n' ' ')
	[ -n "$packages" ] || return 0
	as_root=
	if ! have apt-get; then
		fail "missing here, please install: $packages(the names are Debian's)"
	elif [ "$(id -u)" -ne 0 ]; then
		if have sudo && sudo -n true 2>/dev/null; then
			as_root='sudo -n'
		else
			fail "missing here, please run: sudo apt-get install $packages"
		fi
	fi
	say "installing: $packages"
	$as_root apt-get -q update >&2 || say "apt-get update failed; trying with the package lists that are here"
	# shellcheck disable=SC2086 # both are lists of words
	$as_root env DEBIAN_FRONTEND=noninteractive \
		apt-get -q -y --no-install-recommends install $packages >&2 </dev/null ||
		fail "apt-get could not install: $packages"
	packages=$(missing_packages "$@" | tr '\n' ' ')
	[ -z "$packages" ] || fail "still missing after apt-get install: $packages"
}

# provide_build [PURPOSE...]: what building needs, and what the purposes need.
provide_build() {
	if ! have cargo && [ -x "${HOME:-}/.cargo/bin/cargo" ]; then
		PATH=$PATH:$HOME/.cargo/bin
		export PATH
	fi
	need=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' "$root/Cargo.toml")
	have cargo || fail "no Rust toolchain found: install Rust $need or later with rustup (https://rustup.rs)"
	found=$(rustc --version) || fail "rustc does not run: repair the Rust toolchain"
	found=${found#rustc }
	found=${found%% *}
	oldest=$(printf '%s\n%s\n' "$need" "${found%%-*}" | sort -t . -k 1,1n -k 2,2n -k 3,3n | sed -n 1p)
	[ "$oldest" = "$need" ] || fail "Rust $found is too old: this needs $need or later (rustup update)"
	# No package helps where the variable leads the build astray.
	if [ -z "${LIBCLANG_PATH:-}" ]; then
		unset LIBCLANG_PATH
	elif [ "${LIBCLANG_PATH#/}" = "$LIBCLANG_PATH" ] || ! have_libclang; then
		fail "LIBCLANG_PATH is '$LIBCLANG_PATH', but there is no libclang: unset it, or name the folder of one by its full path"
	fi
	provide build "$@"
}

# --- Building ---

build_bridge() {
	portable=
	if [ "${1:-}" = --portable ]; then
		portable=yes
		shift
	fi
	provide_build
	cd "$root" || exit
	if [ -z "$portable" ]; then
		renew_llama_cpp "$target"
		run_cargo build --release --locked "$@"
		note_llama_cpp "$target"
		say "built $target/release/llama-cpp-bridge"
		return 0
	fi
	# The variable takes the place of the flags in .cargo/config.toml. A directory
	# of its own keeps the two builds from replacing each other.
	case $(uname -m) in
	x86_64 | amd64) processor=x86-64-v3 ;;
	*) processor=generic ;;
	esac
	export RUSTFLAGS="${RUSTFLAGS:+$RUSTFLAGS }-C target-cpu=$processor"
	renew_llama_cpp "$target/portable"
	run_cargo build --release --locked --target-dir "$target/portable" "$@"
	note_llama_cpp "$target/portable"
	say "built $target/portable/release/llama-cpp-bridge for $processor"
}

# Runs cargo and shows what it says. If it fails, the last line says why.
run_cargo() {
	if [ -t 2 ]; then
		# cargo sees the pipe and not the terminal behind it.
		export CARGO_TERM_COLOR="${CARGO_TERM_COLOR:-always}"
		export CARGO_TERM_PROGRESS_WHEN=always CARGO_TERM_PROGRESS_WIDTH="${COLUMNS:-80}"
	fi
	# The copy is kept in memory: a file could not be written where the disk is full.
	output=$({
		{ cargo "$@" 2>&1 && echo 'deploy.sh: cargo succeeded' >&3; } | tee /dev/fd/3 >&2
	} 3>&1) || :
	case $output in
	*'deploy.sh: cargo succeeded'*) ;;
	*) fail "cargo $1 failed: $(why_failed "$output")" ;;
	esac
}

# Prints what the output of a failed build shows to be missing, or the first error in it.
why_failed() {
	while IFS='|' read -r reason signs; do
		if printf '%s\n' "$1" | grep -q -E -e "$signs"; then
			printf '%s\n' "$reason"
			return 0
		fi
	done <<'END'
no space is left on the disk of the target folder, or of /tmp|No space left on device|Disk quota exceeded
too little memory: close other programs, or add --jobs 1, which takes the least|Killed signal terminated|signal: 9, SIGKILL|terminated with signal 9|out of memory|[Cc]annot allocate memory|memory allocation of .* failed|std::bad_alloc
no libclang was found: install libclang-dev, or set LIBCLANG_PATH to the folder of a libclang.so|shared libraries matching: .*libclang|[Uu]nable to find libclang
libclang has no C headers: install libclang-dev and libc6-dev|fatal error: '(std[a-z]*|inttypes|string|math)\.h' file not found
no cmake was found: install cmake|is `cmake` not installed
this cmake is too old|CMake [0-9.]+ or higher is required
no CUDA toolkit (nvcc) was found, which --features cuda needs|No CMAKE_CUDA_COMPILER|CUDAToolkit
no Vulkan SDK was found, which --features vulkan needs: install libvulkan-dev and glslc|Could NOT find Vulkan
no make was found: install make|unable to find a build program|CMAKE_MAKE_PROGRAM is not set
no C++ compiler was found: install g++|No CMAKE_C(XX)?_COMPILER could be found|failed to find tool|CMAKE_C(XX)?_COMPILER not set
no linker was found: install gcc|linker `.*` not found
a library of the C++ compiler is missing: install g++|static library `(gomp|stdc\+\+)`|cannot find -l
crates.io cannot be reached: check the network, its proxy, and ca-certificates|[Cc]ould ?n[o']t resolve host|failed to download|spurious network error|config\.json failed
the target folder cannot be written, or no program can be run from it|Permission denied
END
	printf '%s\n' "$1" | grep -m 1 -E -e '^[^a-z]*error' -e 'CMake Error' -e '(fatal )?error: ' ||
		echo "see above"
}
