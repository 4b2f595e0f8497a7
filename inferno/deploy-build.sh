# deploy-build.sh: what building and testing need, and the build.
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
			# cargo takes the system's; no other system comes without them.
			! have apt-get || have update-ca-certificates || echo ca-certificates
			;;
		model)
			have python3 || echo python3
			python3 -m pip --version >/dev/null 2>&1 || echo python3-pip
			;;
		test)
			for tool in fish git mandoc python3 shellcheck socat zsh; do
				have "$tool" || echo "$tool"
			done
			have node || echo nodejs
			have script || echo bsdutils
			# OpenBSD's: the documents' `nc -U` needs it.
			nc -h 2>&1 | grep -q -e '-[0-9A-Za-z]*U' || echo netcat-openbsd
			# Perl whole: perl-base has no JSON::PP.
			perl -MJSON::PP -e 1 2>/dev/null || echo perl
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
		cargo build --release --locked "$@" >&2
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
	cargo build --release --locked --target-dir "$target/portable" "$@" >&2
	say "built $target/portable/release/llama-cpp-bridge for $processor"
}
