//! What a bridge and its clients take for granted of each other unless told otherwise.

/// Where a bridge listens.
pub const DEFAULT_SOCKET: &str = "/tmp/llama-cpp-bridge.sock";

/// The environment variable that names another socket.
pub const SOCKET_VARIABLE: &str = "LLAMA_CPP_BRIDGE_SOCKET";

/// The longest request, in bytes, without `--max-request`.
pub const DEFAULT_MAX_REQUEST: u64 = 4 << 20;

/// The most that `--max-request` can be.
pub const MAX_REQUEST_LIMIT: u64 = 1 << 30;
