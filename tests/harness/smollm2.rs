//! SmolLM2-135M-Instruct, the smallest model whose answers make sense.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use super::skip;

/// Names another copy of the model.
const MODEL_VARIABLE: &str = "LLAMA_CPP_BRIDGE_TEST_MODEL";
/// Says, if it is 1, that the model may not be fetched; then its tests are skipped.
const OFFLINE_VARIABLE: &str = "LLAMA_CPP_BRIDGE_OFFLINE";
/// The size of the one file that the tests know, in bytes.
const SIZE: u64 = 98_362_432;

/// The path of the model, or `None`, said aloud, if tests are to do without the network.
///
/// # Panics
/// If it can be neither found nor fetched: a test that cannot run has not passed.
pub(crate) fn smollm2_or_skip() -> Option<PathBuf> {
    let offline = std::env::var(OFFLINE_VARIABLE).is_ok_and(|value| value == "1");
    if offline && std::env::var_os(MODEL_VARIABLE).is_none() {
        skip(&format!("{OFFLINE_VARIABLE}=1, so there is no SmolLM2"));
        return None;
    }
    static MODEL: OnceLock<PathBuf> = OnceLock::new();
    Some(MODEL.get_or_init(find).clone())
}

fn find() -> PathBuf {
    let path = match std::env::var_os(MODEL_VARIABLE) {
        Some(path) => PathBuf::from(path),
        None => fetch(),
    };
    let size = std::fs::metadata(&path).map(|metadata| metadata.len());
    assert_eq!(
        size.ok(),
        Some(SIZE),
        "{} is not the model that is meant",
        path.display()
    );
    path
}

/// Asks the deployment script, which keeps the file once it is fetched.
fn fetch() -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("inferno/deploy.sh");
    let done = Command::new(&script)
        .arg("fetch-model")
        .stderr(Stdio::inherit())
        .output()
        .unwrap_or_else(|error| panic!("{}: {error}", script.display()));
    assert!(
        done.status.success(),
        "{} fetch-model failed",
        script.display()
    );
    let path = String::from_utf8(done.stdout).expect("a path is UTF-8");
    PathBuf::from(path.trim_end())
}
