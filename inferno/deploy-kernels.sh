# deploy-kernels.sh: what llama.cpp was compiled with, whether it has to be
# compiled again for that, and which kernels it has. deploy.sh reads this file.

# What deploy.sh sets, and functions that it calls.
# shellcheck shell=sh disable=SC2154

# Cargo runs llama.cpp's build script again when CFLAGS or CXXFLAGS change, but
# cmake reads them, the compilers, and the variables GGML_* and CMAKE_* only in an
# empty folder: in an old one it goes on with those of the first build.

# Prints what llama.cpp would be compiled with now, a line for each compiler and variable.
compilers_now() {
	compiler_now C "${CC:-cc}" "${CFLAGS-$(cargo_variable CFLAGS)}"
	compiler_now CXX "${CXX:-c++}" "${CXXFLAGS-$(cargo_variable CXXFLAGS)}"
	env | grep -E '^(GGML|CMAKE)_' | sort || :
}

# compiler_now LANGUAGE PROGRAM FLAGS
compiler_now() {
	# shellcheck disable=SC2086 # PROGRAM may be `ccache cc`
	release=$($2 -dumpfullversion 2>/dev/null || $2 -dumpversion 2>/dev/null) || release=
	# shellcheck disable=SC2086 # a list of words
	echo "$1" "$(command -v "$2" || echo "$2")" "$release" $3
}

# Prints a variable that .cargo/config.toml gives to compilers.
cargo_variable() {
	sed -n "s/^$1 = \"\(.*\)\"\$/\1/p" "$root/.cargo/config.toml"
}

# Prints what the llama.cpp in the cmake folder was compiled with: what
# build-bridge noted there, or where cargo built it without, cmake's own notes.
compilers_of() {
	if [ -f "$1/compilers" ]; then
		cat "$1/compilers"
		return 0
	fi
	for language in C CXX; do
		# The crate cc puts flags of its own and -w before those that it is given.
		flags=$(sed -n "s/^CMAKE_${language}_FLAGS:[A-Z]*=\(.* -w\)*//p" "$1/CMakeCache.txt")
		compiler=$(sed -n "s/^set(CMAKE_${language}_COMPILER \"\(.*\)\")/\1/p" "$1"/CMakeFiles/*/"CMake${language}Compiler.cmake")
		release=$(sed -n "s/^set(CMAKE_${language}_COMPILER_VERSION \"\(.*\)\")/\1/p" "$1"/CMakeFiles/*/"CMake${language}Compiler.cmake")
		# shellcheck disable=SC2086 # a list of words
		echo "$language" "$compiler" "$release" $flags
	done
	env | grep -E '^(GGML|CMAKE)_' | sort | while IFS= read -r setting; do
		! grep -q "^${setting%%=*}:[A-Z]*=${setting#*=}\$" "$1/CMakeCache.txt" || printf '%s\n' "$setting"
	done
}

# Has cargo compile the llama.cpp of the target folder again, where it was with
# other compilers, flags or variables than those of now.
renew_llama_cpp() {
	compilers=$(compilers_now)
	for folder in "$1"/release/build/llama-cpp-sys-2-*/out/build; do
		[ -f "$folder/CMakeCache.txt" ] || continue
		old=$(compilers_of "$folder" 2>/dev/null) || old=unknown
		[ "$old" != "$compilers" ] || continue
		say "llama.cpp was compiled otherwise than now; it is compiled again, which takes minutes"
		printf '%s\n' "$old" | sed 's/^/deploy.sh:   before: /' >&2
		printf '%s\n' "$compilers" | sed 's/^/deploy.sh:   now:    /' >&2
		run_cargo clean --release --target-dir "$1" --package llama-cpp-sys-2
		return 0
	done
}

# Notes in the target folder what llama.cpp was compiled with, and says which kernels it has.
note_llama_cpp() {
	for folder in "$1"/release/build/llama-cpp-sys-2-*/out/build; do
		[ -f "$folder/CMakeCache.txt" ] || continue
		[ -f "$folder/compilers" ] || printf '%s\n' "$compilers" >"$folder/compilers"
	done
	kernels=$(kernels_of "$1")
	[ -z "$kernels" ] || say "llama.cpp's kernels: $kernels"
}

# Prints the kernels of the llama.cpp in the target folder: those that the macros
# choose which its flags define. Nothing where the compiler or cmake's notes do not
# tell. The newest folder is that of the build that just ended.
kernels_of() (
	# shellcheck disable=SC2012 # the names are cargo's
	made=$(ls -t "$1"/release/build/llama-cpp-sys-2-*/out/build/ggml/src/CMakeFiles/ggml-cpu.dir/flags.make 2>/dev/null | sed -n 1p)
	[ -n "$made" ] || return 0
	compiler=$(sed -n 's/^# compile CXX with //p' "$made")
	flags=$(sed -n -e 's/^CXX_DEFINES = //p' -e 's/^CXX_FLAGS = //p' "$made")
	# shellcheck disable=SC2086 # a list of words
	macros=$("$compiler" $flags -x c++ -dM -E /dev/null 2>/dev/null) || return 0
	case $macros in
	*' __x86_64__ '*) set -- AVX2:__AVX2__ AVX-512:__AVX512F__ VNNI:__AVX512VNNI__ BF16:__AVX512BF16__ repacking:GGML_USE_CPU_REPACK AMX:__AMX_INT8__ ;;
	*' __aarch64__ '*) set -- DOTPROD:__ARM_FEATURE_DOTPROD I8MM:__ARM_FEATURE_MATMUL_INT8 SVE:__ARM_FEATURE_SVE repacking:GGML_USE_CPU_REPACK ;;
	*) return 0 ;;
	esac
	known=
	for kernel in "$@"; do
		case $macros in
		*"#define ${kernel#*:} "*) answer=yes ;;
		*) answer=no ;;
		esac
		known="${known:+$known, }${kernel%%:*} $answer"
	done
	case $known in
	*'AMX no') ! grep -q amx_int8 "$system_root/proc/cpuinfo" 2>/dev/null || known="$known, though this processor has it" ;;
	esac
	printf '%s\n' "$known"
)
