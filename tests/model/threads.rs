//! The number of threads: fixed, or following what else the machine has to do.

use std::fs;
use std::process::{Child, Command};

use crate::harness::{
    Bridge, Client, Directory, Tiny, command, completed, quoted, run, skip, smollm2_or_skip,
    wait_until,
};

/// Processes that always run, as many as there are processors. They end with the test.
struct Busy(Vec<Child>);

impl Busy {
    fn start() -> Busy {
        let start = |_| {
            let mut shell = Command::new("sh");
            shell.args(["-c", "while :; do :; done"]);
            shell.spawn().expect("a shell can be started")
        };
        Busy((0..processors()).map(start).collect())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, |count| count.get())
}

/// Processor time of all threads of a process but its first, in nanoseconds.
fn time_of_others(pid: u32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("the process runs");
    let others = tasks
        .flatten()
        .filter(|task| task.file_name().to_str() != Some(&pid.to_string()));
    others
        .filter_map(|task| fs::read_to_string(task.path().join("schedstat")).ok())
        .filter_map(|text| text.split(' ').next()?.parse::<u64>().ok())
        .sum()
}

/// Has a prompt of some hundred tokens evaluated, and gives the time of the model's other threads
/// meanwhile.
fn evaluate(bridge: &Bridge, client: &mut Client) -> u64 {
    let pid = bridge.model_process();
    let before = time_of_others(pid);
    let prompt = quoted(&format!("{}w", "a".repeat(300)));
    let answer = client.generate(&format!(r#"{{"prompt":{prompt},"cache_prompt":false}}"#));
    assert_eq!(answer.text, "xyz");
    time_of_others(pid) - before
}

#[test]
fn beside_busy_processes_one_thread_computes_unless_more_are_asked_for() {
    if processors() < 2 {
        return skip("there is one processor");
    }
    let (home, fixed_home) = (Directory::new(), Directory::new());
    let model = Tiny::alphabet().write(home.join("tiny.gguf"));
    let _busy = Busy::start();
    let auto = ["--threads", "auto", "--threads-batch", "auto"];
    let bridge = Bridge::with_model(&home, &model, &auto);
    let mut client = bridge.connect();
    wait_until("one thread computes alone", || {
        evaluate(&bridge, &mut client) == 0
    });
    let two = ["--threads", "2", "--threads-batch", "2"];
    let fixed = Bridge::with_model(&fixed_home, &model, &two);
    let mut client = fixed.connect();
    for _ in 0..20 {
        assert!(evaluate(&fixed, &mut client) > 0);
    }
}

#[test]
fn the_threads_of_prompts_and_those_of_tokens_are_set_apart() {
    for (single, batch, others) in [("1", "1", false), ("1", "2", true), ("2", "1", true)] {
        let home = Directory::new();
        let model = Tiny::alphabet().write(home.join("tiny.gguf"));
        let options = ["--threads", single, "--threads-batch", batch];
        let bridge = Bridge::with_model(&home, &model, &options);
        let mut client = bridge.connect();
        let used = evaluate(&bridge, &mut client) > 0;
        assert_eq!(used, others, "{options:?}");
    }
}

#[test]
fn threads_have_room_for_their_stacks() {
    let home = Directory::new();
    let model = Tiny::alphabet().write(home.join("tiny.gguf"));
    let options = ["--threads", "1", "--threads-batch", "4"];
    let mut command = command(&home, &options);
    command.arg("--model").arg(model).env("OMP_STACKSIZE", "1G");
    let bridge = Bridge::start_command(&mut command, home.socket());
    let mut client = bridge.connect();
    client.exchange("INFER a longer prompt: w", &completed("xyz"));
    client.ask("EMBED some text");
    assert!(client.receive().contains(r#""status":"ok""#));
}

#[test]
fn auto_and_numbers_answer_in_any_mixture() {
    let home = Directory::new();
    let model = Tiny::alphabet().write(home.join("tiny.gguf"));
    let all = processors().to_string();
    for single in ["auto", "1", "2", "3", &all] {
        for batch in ["auto", "1", "2", "3", &all] {
            let options = ["--threads", single, "--threads-batch", batch];
            let bridge = Bridge::with_model(&home, &model, &options);
            let mut client = bridge.connect();
            client.exchange("INFER a longer prompt: w", &completed("xyz"));
            client.ask("EMBED some text");
            let reply = client.receive();
            assert!(reply.starts_with(r#"{"status":"ok""#), "{reply}");
        }
    }
}

/// What `INFO` says of the threads.
fn told(options: &[&str]) -> String {
    let home = Directory::new();
    let model = Tiny::alphabet().write(home.join("tiny.gguf"));
    let bridge = Bridge::with_model(&home, &model, options);
    let mut client = bridge.connect();
    client.ask("INFO");
    let line = client.receive();
    let told = line.split(r#""threads":"#).nth(1);
    let told = told.and_then(|rest| rest.split([',', '}']).next());
    told.expect("INFO tells the threads").to_string()
}

#[test]
fn info_tells_the_number_that_was_asked_for_and_else_that_of_the_processors() {
    assert_eq!(told(&["--threads", "3"]), "3");
    assert_eq!(told(&["--threads", "auto"]), processors().to_string());
}

#[test]
fn a_number_of_threads_that_is_none_is_refused_by_name() {
    let home = Directory::new();
    for option in ["--threads", "--threads-batch", "-t"] {
        for value in ["0", "513", "Auto", "automatic", "2,", ""] {
            let ended = run(&mut command(&home, &[option, value]));
            let takes = "auto or a number from 1 to 512";
            let message = format!(
                "llama-cpp-bridge: {option}: '{value}' is not {takes} (--help lists the options)\n"
            );
            assert_eq!((ended.code, ended.errors), (Some(2), message));
        }
    }
}

#[test]
fn a_fixed_number_gives_the_same_text_beside_busy_processes() {
    let Some(model) = smollm2_or_skip() else {
        return;
    };
    let home = Directory::new();
    let options = ["--threads", "2", "--threads-batch", "2"];
    let bridge = Bridge::with_model(&home, &model, &options);
    let mut client = bridge.connect();
    // Beyond 512 tokens llama.cpp rounds by the number of threads.
    let prompt = quoted(&"The sea is wide, and the ship is small. ".repeat(52));
    let request = format!(r#"{{"prompt":{prompt},"max_tokens":24,"cache_prompt":false}}"#);
    let first = client.generate(&request);
    assert!(first.prompt_tokens > 512, "{} tokens", first.prompt_tokens);
    let _busy = Busy::start();
    for _ in 0..2 {
        assert_eq!(client.generate(&request).text, first.text);
    }
}
