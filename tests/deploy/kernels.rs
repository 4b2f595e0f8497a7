//! `inferno/deploy.sh build-bridge`: llama.cpp is compiled again where it was compiled otherwise
//! than now, and its kernels are named.

use std::fs;
use std::path::{Path, PathBuf};

use crate::deploy::build::StandIns;
use crate::harness::Ended;

/// What cargo gives to compilers in this project.
const CONFIG: &str = include_str!("../../.cargo/config.toml");

/// A machine whose target folder has a llama.cpp that cargo compiled earlier.
struct Machine(StandIns);

impl Machine {
    /// One where it was compiled with these flags of C and C++.
    fn new(c: &str, cxx: &str) -> Machine {
        let stand_ins = StandIns::new();
        let target = stand_ins.0.join("target");
        // The folder goes with the package, as with the real one, and a build makes none.
        stand_ins.add(
            "cargo",
            &format!(
                "echo \"cargo: $*\"\ncase $1 in clean) while [ $1 != --target-dir ]; do shift; done\n\
                 PATH=/usr/bin:/bin rm -r \"$2\"/release/build/llama-cpp-sys-2-*;; esac\n\
                 : '{}'",
                target.display()
            ),
        );
        let machine = Machine(stand_ins);
        machine.compiler("12.2.0", &["__x86_64__", "__AVX2__", "__AVX512F__"]);
        machine.compiled("", c, cxx);
        machine.compiled("portable/", c, cxx);
        machine
    }

    /// Has it compilers of this release, which predefine these macros.
    fn compiler(&self, release: &str, macros: &[&str]) {
        let macros: String = macros
            .iter()
            .map(|name| format!("echo '#define {name} 1'\n"))
            .collect();
        let text =
            format!("case $* in -dumpfullversion) echo {release};; *' -dM -E '*) {macros};; esac");
        for tool in ["cc", "c++"] {
            self.0.add(tool, &text);
        }
    }

    /// Lays out what cmake and make leave behind them.
    fn compiled(&self, below: &str, c: &str, cxx: &str) {
        let folder = self.folder(below);
        let write = |name: &str, text: String| {
            let path = folder.join(name);
            fs::create_dir_all(path.parent().expect("it is in a folder")).expect("it can be made");
            fs::write(path, text).expect("it can be written");
        };
        let own = "-ffunction-sections -fPIC -m64 -w";
        write(
            "CMakeCache.txt",
            format!(
                "CMAKE_CXX_FLAGS:STRING= {own} {cxx}\nCMAKE_CXX_FLAGS_RELEASE:STRING=-O3\n\
                 CMAKE_C_FLAGS:STRING= {own} {c}\n"
            ),
        );
        let stand_in = |tool: &str| self.0.0.join(tool).display().to_string();
        for (language, tool) in [("C", "cc"), ("CXX", "c++")] {
            write(
                &format!("CMakeFiles/3.25.1/CMake{language}Compiler.cmake"),
                format!(
                    "set(CMAKE_{language}_COMPILER \"{}\")\n\
                     set(CMAKE_{language}_COMPILER_VERSION \"12.2.0\")\n",
                    stand_in(tool)
                ),
            );
        }
        write(
            "ggml/src/CMakeFiles/ggml-cpu.dir/flags.make",
            format!(
                "# compile CXX with {}\nCXX_DEFINES = -DX\nCXX_FLAGS = {own} {cxx}\n",
                stand_in("c++")
            ),
        );
    }

    /// Where cmake works.
    fn folder(&self, below: &str) -> PathBuf {
        let name = format!("target/{below}release/build/llama-cpp-sys-2-0123abcd/out/build");
        self.0.0.join(&name)
    }

    /// Runs build-bridge with these flags; what cargo was asked for stands among what it said.
    fn build(&self, flags: &[(&str, &str)]) -> Ended {
        let flags: Vec<(&str, &Path)> = flags.iter().map(|(n, v)| (*n, Path::new(v))).collect();
        let ended = self.0.build_alone(&flags);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        ended
    }

    /// The same, which is to find nothing changed.
    fn build_expecting_no_change(&self, flags: &[(&str, &str)]) {
        let ended = self.build(flags);
        assert!(ended.errors.starts_with("cargo: build "), "{ended:?}");
    }
}

/// The flags that .cargo/config.toml gives under this name.
pub(crate) fn configured(name: &str) -> &'static str {
    let start = format!("{name} = \"");
    let line = CONFIG.lines().find_map(|line| line.strip_prefix(&start));
    let flags = line.and_then(|rest| rest.strip_suffix('"'));
    flags.unwrap_or_else(|| panic!("no {name} in {CONFIG}"))
}

#[test]
fn llama_cpp_is_compiled_again_where_the_flags_were_others() {
    let (c, cxx) = (configured("CFLAGS"), configured("CXXFLAGS"));
    let same = Machine::new(c, cxx);
    same.build_expecting_no_change(&[]);
    // What the user sets wins over the file, as with cargo.
    let own = Machine::new("-O1", "");
    own.build_expecting_no_change(&[("CFLAGS", "-O1"), ("CXXFLAGS", "")]);

    let without = cxx.replace(" -fno-dse", "");
    let more = format!("-fno-tree-dse {cxx}");
    for (c_then, cxx_then) in [(c, without.as_str()), (c, &more), ("", cxx)] {
        let machine = Machine::new(c_then, cxx_then);
        let target = machine.0.0.join("target");
        let compilers = |c: &str, cxx: &str, when: &str| {
            let line = |language: &str, tool: &str, flags: &str| {
                let path = machine.0.0.join(tool);
                let line = format!("{language} {} 12.2.0 {flags}", path.display());
                format!("deploy.sh:   {when} {}\n", line.trim_end())
            };
            format!("{}{}", line("C", "cc", c), line("CXX", "c++", cxx))
        };
        let expected = format!(
            "deploy.sh: llama.cpp was compiled otherwise than now; it is compiled again, \
             which takes minutes\n{}{}\
             cargo: clean --release --target-dir {} --package llama-cpp-sys-2\n\
             cargo: build --release --locked\n\
             deploy.sh: built {}/release/llama-cpp-bridge\n",
            compilers(c_then, cxx_then, "before:"),
            compilers(c, cxx, "now:   "),
            target.display(),
            target.display(),
        );
        assert_eq!(machine.build(&[]).errors, expected);
    }
}

#[test]
fn llama_cpp_is_compiled_again_where_the_compiler_or_a_variable_was_another() {
    let machine = Machine::new("-O1", "-O2");
    let flags = [("CFLAGS", "-O1"), ("CXXFLAGS", "-O2")];
    machine.build_expecting_no_change(&flags);
    let noted = fs::read_to_string(machine.folder("").join("compilers")).expect("it is noted");
    let path = |tool: &str| machine.0.0.join(tool).display().to_string();
    let expected = format!(
        "C {} 12.2.0 -O1\nCXX {} 12.2.0 -O2\n",
        path("cc"),
        path("c++")
    );
    assert_eq!(noted, expected);

    machine.compiler("13.1.0", &[]);
    let ended = machine.build(&flags);
    assert!(ended.errors.contains("cargo: clean "), "{ended:?}");
    // Nothing is left to be compiled again until it was compiled.
    machine.build_expecting_no_change(&flags);
    machine.compiled("", "-O1", "-O2");
    machine.compiler("12.2.0", &[]);
    machine.build_expecting_no_change(&flags);
    let mut more = flags.to_vec();
    more.push(("GGML_CPU_REPACK", "OFF"));
    let ended = machine.build(&more);
    assert!(
        ended
            .errors
            .contains("deploy.sh:   now:    GGML_CPU_REPACK=OFF\ncargo: clean "),
        "{ended:?}"
    );
}

#[test]
fn a_variable_counts_as_used_where_cmake_noted_it() {
    let settings = [("CFLAGS", ""), ("CXXFLAGS", ""), ("GGML_CPU_REPACK", "OFF")];
    let machine = Machine::new("", "");
    let cache = machine.folder("").join("CMakeCache.txt");
    let noted = fs::read_to_string(&cache).expect("it can be read");
    fs::write(&cache, noted + "GGML_CPU_REPACK:BOOL=OFF\n").expect("it can be written");
    machine.build_expecting_no_change(&settings);

    let machine = Machine::new("", "");
    let ended = machine.build(&settings);
    assert!(ended.errors.contains("cargo: clean "), "{ended:?}");
}

#[test]
fn a_build_says_which_kernels_it_has() {
    let (c, cxx) = (configured("CFLAGS"), configured("CXXFLAGS"));
    let machine = Machine::new(c, cxx);
    let root = machine.0.0.path().to_path_buf();
    let expect = |kernels: &str| {
        let root = root.to_str().expect("a path is UTF-8");
        // The libclang beside the stand-ins, as the system's is hidden with it.
        let settings = [("DEPLOY_SYSTEM_ROOT", root), ("LIBCLANG_PATH", root)];
        let ended = machine.build(&settings);
        let expected = format!("deploy.sh: llama.cpp's kernels: {kernels}\n");
        assert!(ended.errors.contains(&expected), "{ended:?}");
    };
    expect("AVX2 yes, AVX-512 yes, VNNI no, BF16 no, repacking no, AMX no");
    fs::create_dir(root.join("proc")).expect("it can be made");
    fs::write(root.join("proc/cpuinfo"), "flags : fpu amx_int8\n").expect("it can be written");
    expect(
        "AVX2 yes, AVX-512 yes, VNNI no, BF16 no, repacking no, AMX no, though this processor has it",
    );
    let all = [
        "__x86_64__",
        "__AVX2__",
        "__AVX512F__",
        "__AVX512VNNI__",
        "GGML_USE_CPU_REPACK",
        "__AMX_INT8__",
    ];
    machine.compiler("12.2.0", &all);
    expect("AVX2 yes, AVX-512 yes, VNNI yes, BF16 no, repacking yes, AMX yes");
    machine.compiler("12.2.0", &["__aarch64__", "__ARM_FEATURE_DOTPROD"]);
    expect("DOTPROD yes, I8MM no, SVE no, repacking no");
}
